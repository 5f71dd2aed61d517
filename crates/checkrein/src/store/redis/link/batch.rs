//! Requests of one run, put together by the servers they go to.

use std::time::Instant;

use redis::Value;

use super::{LinkError, Request};
use crate::store::redis::address::Endpoint;
use crate::store::redis::name::Tag;

/// What is asked along with requests, when it is time.
#[derive(Debug)]
pub(super) enum Also {
    Server,
    Epoch(Tag),
}

/// The requests of one server, by their places, and what is asked along with them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) at: Endpoint,
    pub(super) numbers: Vec<usize>,
    pub(super) also: Vec<Also>,
}

/// The requests of one run, and their results as they come.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) requests: &'a [Request],
    pub(super) deadline: Instant,
    pub(super) groups: Vec<Group>,
    pub(super) results: Vec<Option<Result<Value, LinkError>>>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(requests: &'a [Request], deadline: Instant) -> Self {
        let mut results = Vec::new();
        results.resize_with(requests.len(), || None);
        Self { requests, deadline, groups: Vec::new(), results }
    }

    /// The group of a server.
    pub(super) fn group(&mut self, at: Endpoint) -> usize {
        self.groups.iter().position(|group| group.at == at).unwrap_or_else(|| {
            self.groups.push(Group {
                at,
                numbers: Vec::with_capacity(self.requests.len()),
                also: Vec::new(),
            });
            self.groups.len() - 1
        })
    }

    /// Adds a request to a group, or says why it cannot go anywhere.
    pub(super) fn add(&mut self, number: usize, group: &Result<usize, LinkError>) {
        match group {
            Ok(group) => {
                if let Some(group) = self.groups.get_mut(*group) {
                    group.numbers.push(number);
                }
            }
            Err(error) => self.put(number, Err(error.clone())),
        }
    }

    pub(super) fn put(&mut self, number: usize, result: Result<Value, LinkError>) {
        if let Some(place) = self.results.get_mut(number) {
            *place = Some(result);
        }
    }

    /// Requests by their places.
    pub(super) fn of<'b>(
        &self,
        numbers: &'b [usize],
    ) -> impl Iterator<Item = &'a Request> + Clone + use<'a, 'b> {
        let requests = self.requests;
        numbers.iter().filter_map(move |number| requests.get(*number))
    }
}
