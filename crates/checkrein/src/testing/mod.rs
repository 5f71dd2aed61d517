//! For tests of stores and of programs that use an engine: a clock that stands still, a disk that breaks, the reference
//! model, and the suite that every store has to pass.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

mod adjusting;
mod conformance;
pub mod disk;
pub mod model;
pub mod planted;
mod random;

pub use crate::clock::FakeClock;
pub use adjusting::{random_budget, random_change};
pub use conformance::{MakeEngine, Violation, conformance, owned, random_call, random_gates};
pub use random::Random;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread, without a runtime.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
