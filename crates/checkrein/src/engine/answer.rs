//! A result that comes from another thread, for those who await it.

use std::task::{Poll, Waker};

use parking_lot::Mutex;

use crate::store::Results;

/// A result that comes later, for those who await it.
#[derive(Debug, Default)]
pub(super) struct Answer(Mutex<(Option<Results>, Option<Waker>)>);

impl Answer {
    pub(super) fn put(&self, results: Results) {
        let mut state = self.0.lock();
        state.0 = Some(results);
        let waker = state.1.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) async fn future(&self) -> Results {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock();
            match state.0.take() {
                Some(results) => Poll::Ready(results),
                None => {
                    state.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}
