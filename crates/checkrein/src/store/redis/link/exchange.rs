//! The exchange with all servers of a batch: write to every one, then read from every one.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis::Value;

use super::batch::{Also, Batch, Group};
use super::info::ServerInfo;
use super::{Link, LinkError, epoch, wire};
use crate::store::redis::address::Endpoint;
use crate::store::redis::name::{self, Tag};

impl Link {
    /// Puts the requests together that go to a server which is there; returns the others.
    pub(super) fn sort(&mut self, batch: &mut Batch<'_>) -> Vec<usize> {
        let mut waiting = Vec::new();
        let mut last: Option<(Tag, Option<Result<usize, LinkError>>)> = None;
        for (number, request) in batch.requests.iter().enumerate() {
            let group = match &last {
                Some((tag, group)) if *tag == request.tag => group.clone(),
                _ => self.ready(request.tag, batch),
            };
            match &group {
                Some(group) => batch.add(number, group),
                None => waiting.push(number),
            }
            last = Some((request.tag, group));
        }
        waiting
    }

    /// The group of the server that keeps a tag, if it is there.
    fn ready(&mut self, tag: Tag, batch: &mut Batch<'_>) -> Option<Result<usize, LinkError>> {
        let at = self.place(tag)?;
        let node = self.nodes.get(at)?;
        let info = Arc::clone(node.info()?);
        let group = batch.groups.iter().position(|group| group.at == *at);
        if group.is_none() && !node.is_ready() {
            return None;
        }
        let at = at.clone();
        Some(self.check(tag, &info).map(|()| group.unwrap_or_else(|| batch.group(at))))
    }

    /// Connects with the servers that the others go to, each at most once.
    pub(super) fn reach_all(&mut self, waiting: &[usize], batch: &mut Batch<'_>) {
        let mut failed: Vec<(Endpoint, LinkError)> = Vec::new();
        let mut known: BTreeMap<Tag, Result<usize, LinkError>> = BTreeMap::new();
        for number in waiting {
            let Some(tag) = batch.requests.get(*number).map(|request| request.tag) else { continue };
            let group = known.get(&tag).cloned().unwrap_or_else(|| {
                if let Some(at) = self.place(tag)
                    && let Some((_, error)) = failed.iter().find(|(other, _)| other == at)
                {
                    return Err(error.clone());
                }
                match self.reach(tag, batch.deadline) {
                    Ok((at, info)) => self.check(tag, &info).map(|()| batch.group(at)),
                    Err(error) => {
                        failed.extend(self.place(tag).map(|at| (at.clone(), error.clone())));
                        Err(error)
                    }
                }
            });
            batch.add(*number, &group);
            known.insert(tag, group);
        }
    }

    /// Whether a server is still what it was when the tag was last used.
    fn check(&mut self, tag: Tag, info: &ServerInfo) -> Result<(), LinkError> {
        match self.tags.get(tag) {
            Some(known) if known.stale || *known.incarnation != *info.incarnation => Err(LinkError::Changed),
            Some(_) => Ok(()),
            None => {
                self.remember(tag, info, None);
                Ok(())
            }
        }
    }

    /// Writes to every server of a batch, then reads from every one.
    pub(super) fn exchange(&mut self, batch: &mut Batch<'_>) {
        let groups: Vec<Group> = std::mem::take(&mut batch.groups)
            .into_iter()
            .filter_map(|group| self.send(group, batch))
            .collect();
        for group in groups {
            self.receive(&group, batch);
        }
    }

    /// Writes the requests of one server, and what else is to be asked.
    fn send(&mut self, mut group: Group, batch: &mut Batch<'_>) -> Option<Group> {
        let node = self.nodes.get_mut(&group.at)?;
        let mut commands = Vec::new();
        let mut last = None;
        for tag in batch.of(&group.numbers).map(|request| request.tag) {
            if last != Some(tag) && self.tags.is_old(tag) {
                group.also.push(Also::Epoch(tag));
                commands.push(vec!["GET".to_owned(), name::epoch(&self.prefix, tag)]);
            }
            last = Some(tag);
        }
        if let Some(look) = node.look() {
            group.also.push(Also::Server);
            commands.push(look);
        }
        match node.send(batch.of(&group.numbers), &commands, batch.deadline) {
            Ok(()) => Some(group),
            Err(error) => {
                self.hang_up(&group.at);
                group.numbers.iter().for_each(|number| batch.put(*number, Err(error.clone())));
                None
            }
        }
    }

    /// Reads the replies of one server.
    fn receive(&mut self, group: &Group, batch: &mut Batch<'_>) {
        let Some(node) = self.nodes.get_mut(&group.at) else { return };
        let mut replies = node.receive(group.numbers.len() + group.also.len());
        let others = replies.split_off(group.numbers.len().min(replies.len()));
        let incarnation = node.info().map(|info| info.incarnation.clone());
        for (also, reply) in group.also.iter().zip(others) {
            match (also, reply) {
                (Also::Server, Ok(reply)) => node.saw(&reply),
                (Also::Epoch(tag), Ok(reply)) => {
                    let found = wire::text(&reply).zip(incarnation.as_deref());
                    self.tags.saw(
                        *tag,
                        found.is_some_and(|(found, incarnation)| epoch::is_accepted(incarnation, found)),
                    );
                }
                (_, Err(_)) => {}
            }
        }
        if replies.iter().any(Result::is_err) {
            self.hang_up(&group.at);
        }
        let mut unknown = Vec::new();
        for (number, reply) in group.numbers.iter().zip(replies) {
            match reply {
                Ok(Value::ServerError(error)) if error.code() == "NOSCRIPT" => unknown.push(*number),
                reply => {
                    let reply = self.judge(&group.at, reply);
                    batch.put(*number, reply);
                }
            }
        }
        if !unknown.is_empty() {
            self.resend(&group.at, &unknown, batch);
        }
    }

    /// Requests that did not run because somebody has flushed the scripts: loads them and sends once more.
    fn resend(&mut self, at: &Endpoint, numbers: &[usize], batch: &mut Batch<'_>) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let sent =
            node.reload(batch.deadline).and_then(|()| node.send(batch.of(numbers), &[], batch.deadline));
        let replies = match sent {
            Ok(()) => node.receive(numbers.len()),
            Err(error) => vec![Err(error); numbers.len()],
        };
        for (number, reply) in numbers.iter().zip(replies) {
            let reply = match reply {
                Ok(Value::ServerError(error)) if error.code() == "NOSCRIPT" => Err(LinkError::NotRun(
                    "the server forgets the scripts as soon as they are loaded".to_owned(),
                )),
                reply => self.judge(at, reply),
            };
            batch.put(*number, reply);
        }
    }

    fn judge(&mut self, at: &Endpoint, reply: Result<Value, LinkError>) -> Result<Value, LinkError> {
        match reply {
            Ok(Value::ServerError(error)) => {
                let text = wire::refusal(&error);
                Err(self.failed(at, error.code(), text))
            }
            reply => reply,
        }
    }
}
