//! The pages on the policy file say what the code does.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use expect_test::expect_file;

use crate::config::PolicyFile;
use crate::config::cases::CASES;
use crate::config::fields::FILE;
use crate::config::shape::{Block, Presence, Shape};

/// A shape as a column of a table says it.
fn form(shape: &Shape) -> String {
    match shape {
        Shape::Whole(least, most) if least == most => format!("`{least}`"),
        Shape::Whole(least, most) => format!("whole number, {least} to {most}"),
        Shape::Truth => "`true` or `false`".to_owned(),
        Shape::Word(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
        }
        Shape::Text(text) => text.what().to_owned(),
        Shape::List(of, most) => format!("list of at most {most}: {}", form(of)),
        Shape::Table(block) => format!("table: [{0}](#{1})", block.what, anchor(block)),
        Shape::Json => "any value".to_owned(),
        Shape::Members => "table: any values by name".to_owned(),
        Shape::Named(_, of, most) => format!("at most {most} tables by name: {}", form(of)),
        Shape::Either(shapes) => shapes.iter().map(form).collect::<Vec<_>>().join(", or "),
    }
}

fn anchor(block: &Block) -> String {
    block.what.replace(' ', "-")
}

/// The tables of a block and of those inside it, each once.
fn write_block(block: &'static Block, to: &mut String, done: &mut Vec<String>) {
    let fields: Vec<&str> = block.fields.iter().map(|field| field.name).collect();
    let mark = format!("{} {fields:?}", block.what);
    if done.contains(&mark) {
        return;
    }
    done.push(mark);
    let is_first = !to.contains(&format!("\n## {}\n", block.what));
    let title = if is_first { block.what.to_owned() } else { format!("{}, in full", block.what) };
    writeln!(to, "\n## {title}\n\n| field | form | what it does |\n|---|---|---|").unwrap();
    for field in block.fields {
        let note = match field.presence {
            Presence::Required => " Required.",
            Presence::Optional => "",
            Presence::Later => " **Not available yet: refused.**",
        };
        let form = form(&field.shape).replace('|', "\\|");
        writeln!(to, "| `{}` | {form} | {}{note} |", field.name, field.about).unwrap();
    }
    for field in block.fields {
        write_inner(&field.shape, to, done);
    }
}

fn write_inner(shape: &'static Shape, to: &mut String, done: &mut Vec<String>) {
    match shape {
        Shape::Table(block) => write_block(block, to, done),
        Shape::List(of, _) | Shape::Named(_, of, _) => write_inner(of, to, done),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| write_inner(shape, to, done)),
        _ => {}
    }
}

#[test]
fn every_field_is_on_the_page_of_fields() {
    let mut page = "# Fields of the policy file\n\n\
        Written from the code; [the policy file](policy.md) says what they are for.\n"
        .to_owned();
    write_block(&FILE, &mut page, &mut Vec::new());
    expect_file!["../../../../../docs/reference/policy-fields.md"].assert_eq(&page);
}

#[test]
fn every_field_of_a_case_is_on_its_page() {
    let mut page = "# Fields of a file of cases\n\n\
        Written from the code; [testing a policy](policy-test.md) says what they are for.\n"
        .to_owned();
    write_block(&CASES, &mut page, &mut Vec::new());
    expect_file!["../../../../../docs/reference/policy-test-fields.md"].assert_eq(&page);
}

#[test]
fn every_sample_of_the_page_is_a_policy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/policy.md");
    let page = fs::read_to_string(path).unwrap();
    let samples: Vec<&str> =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(samples.len() > 5);
    for sample in samples {
        if let Err(error) = PolicyFile::parse("policy.md", sample, false) {
            panic!("{sample}\n{}", error.report(100));
        }
    }
}
