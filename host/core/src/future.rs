//! The one shape of an asynchronous trait method here. Not a runtime: nothing in this crate polls.

use std::future::Future;
use std::pin::Pin;

/// A boxed future that can move between threads; what every async method of an object-safe trait returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
