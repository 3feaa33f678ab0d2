//! Requests under a grant of `http`. Never has a credential: the host attaches it, after the agent's request was decided and logged.
//!
//! ```no_run
//! use claviger_sdk::Error;
//! use claviger_sdk::http::Request;
//!
//! claviger_sdk::agent!(count_issues);
//!
//! fn count_issues(repository: String) -> Result<String, Error> {
//!     let url = format!("https://api.github.com/repos/{repository}/issues");
//!     let issues: Vec<Issue> = Request::get(url).send()?.json()?;
//!     Ok(format!("{} issues, the last is {}", issues.len(), issues.first().map_or("none", |issue| &issue.title)))
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Issue {
//!     title: String,
//! }
//! ```
//!
//! The operator's manifest grants the origin and the paths, and says which credential goes with them:
//!
//! ```toml
//! [grants.github]
//! http = { origin = "https://api.github.com", allow = ["GET /repos/acme/*/issues"] }
//! inject = { bearer = "github-token" }
//! ```
//!
//! Any other HTTP library that speaks `wasi:http` does as well; this one names the grant when the host refuses. It follows no redirects:
//! each hop is a request of its own, which the manifest has to grant. An agent that calls none of this imports no `wasi:http`.

mod error;
mod events;
mod request;
mod response;

pub use error::{Error, Fault};
pub use events::{Event, Events};
pub use request::Request;
pub use response::{Body, Response};
