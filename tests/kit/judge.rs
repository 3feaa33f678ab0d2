//! Verifiers from PyPI: HTTP message signatures, JOSE libraries. Not an opinion of ours: `tests/python/judge.py` asks them and knows none
//! of our code.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::verifiers::accepts;

/// What a verifier says of one case.
#[derive(Debug, Clone, Deserialize)]
pub struct Verdict {
    /// Whether it accepts it.
    pub accepted: bool,
    /// Why not.
    pub why: String,
    /// The claims it read, if it is a token.
    pub claims: Option<Value>,
}

/// The root of the source tree.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The interpreter that has the packages of the tests.
///
/// # Panics
/// When they are not installed: what to type is shown.
#[must_use]
pub fn python() -> String {
    if let Err(error) = xtask::python::check(root()) {
        panic!("{error}");
    }
    let python = xtask::python::interpreter(root());
    python.to_str().expect("UTF-8").to_owned()
}

/// A verdict on each case, in their order.
///
/// # Panics
/// When Python or its packages are not installed, or a case is not one.
#[must_use]
pub fn judge(cases: &[Value]) -> Vec<Verdict> {
    let script = root().join("tests/python/judge.py");
    let input = serde_json::to_vec(cases).expect("JSON");
    let said = accepts(
        &python(),
        &[script.to_str().expect("UTF-8")],
        &input,
        "python3-venv",
    );
    let verdicts: Vec<Verdict> =
        serde_json::from_str(&said.expect("judge.py gives verdicts")).expect("verdicts as JSON");
    assert_eq!(verdicts.len(), cases.len());
    verdicts
}
