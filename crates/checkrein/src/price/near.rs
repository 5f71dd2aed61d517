//! What somebody may have meant: the names in the book that are closest to one that is not in it.

use super::book::PriceBook;
use super::error::PriceError;

/// Names longer than that are no typing errors, and the distance costs the product of both lengths.
const LONGEST: usize = 64;
/// The most suggestions.
const MOST: usize = 3;

pub(super) fn unknown_model(book: &PriceBook, provider: usize, model: &str) -> PriceError {
    let Some(provider) = book.providers().get(provider) else {
        return unknown_provider(book, None, model);
    };
    let own = provider.models.iter().map(|known| (&*provider.id, &*known.id));
    let near = closest(model, own).into_iter().map(|(_, name)| name).collect();
    PriceError::UnknownModel { provider: provider.id.to_string(), model: shown(model), near }
}

pub(super) fn unknown_provider(book: &PriceBook, provider: Option<&str>, model: &str) -> PriceError {
    let near = match provider {
        Some(name) => {
            let ids = book.providers().iter().map(|provider| &*provider.id);
            let mut near: Vec<(usize, &str)> = ids
                .filter_map(|id| Some((distance(name, id)?, id)))
                .filter(|(edits, _)| *edits <= 3)
                .collect();
            near.sort_unstable();
            near.into_iter().take(MOST).map(|(_, id)| id.to_owned()).collect()
        }
        None => {
            let all = book.providers().iter();
            let all = all.flat_map(|owner| owner.models.iter().map(move |known| (&*owner.id, &*known.id)));
            closest(model, all).into_iter().map(|(_, name)| name).collect()
        }
    };
    PriceError::UnknownProvider { provider: provider.map(shown), model: shown(model), near }
}

fn closest<'a>(model: &str, names: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(usize, String)> {
    let model = model.to_ascii_lowercase();
    // Whoever mistypes a third of a name meant another one.
    let most = (model.len() / 3).clamp(1, 6);
    let mut near: Vec<(usize, String)> = names
        .filter(|(_, id)| id.len().abs_diff(model.len()) <= most)
        .filter_map(|(owner, id)| Some((distance(&model, id)?, owner, id)))
        .filter(|(edits, ..)| *edits <= most)
        .map(|(edits, owner, id)| (edits, format!("{owner}/{id}")))
        .collect();
    near.sort_unstable();
    near.truncate(MOST);
    near
}

/// Insertions, removals and replacements of bytes between two names, neither of them long.
fn distance(a: &str, b: &str) -> Option<usize> {
    if a.len() > LONGEST || b.len() > LONGEST {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (diagonal + usize::from(from != to)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = here;
            left = here;
        }
    }
    row.last().copied()
}

/// Hostile text made harmless and short for a message.
fn shown(text: &str) -> String {
    text.chars().take(LONGEST).flat_map(char::escape_debug).collect()
}
