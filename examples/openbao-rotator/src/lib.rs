//! A rotator for service tokens of OpenBao (or Vault): asks for a token of a role, has it tried, and revokes the one before by its
//! accessor. It has no token: the host attaches them, and takes the new one out of the answer.

use claviger_sdk::Rotate;
use claviger_sdk::http::{Error, Request};
use serde_json::{Value, json};

claviger_sdk::rotator!(Tokens);

struct Tokens;

impl Rotate for Tokens {
    type Error = String;

    /// `auth/token/create/ROLE`: a role with `orphan=true`, so that the new token does not end with the one that asked for it.
    fn issue() -> Result<(), String> {
        let role = variable("BAO_ROLE")?;
        post(
            &format!("auth/token/create/{role}"),
            &json!({ "display_name": "claviger" }),
        )
    }

    /// `sys/capabilities-self`: any token may ask it, and unlike `lookup-self` it does not say the token back.
    fn probe() -> Result<(), String> {
        post("sys/capabilities-self", &json!({ "paths": ["sys/health"] }))
    }

    /// `auth/token/revoke-accessor`.
    fn withdraw(id: String) -> Result<(), String> {
        post("auth/token/revoke-accessor", &json!({ "accessor": id }))
    }
}

fn post(path: &str, body: &Value) -> Result<(), String> {
    let url = format!("{}/v1/{path}", variable("BAO_ADDR")?);
    let said = |error: Error| error.to_string();
    let status = Request::post(url)
        .json(body)
        .send()
        .map_err(said)?
        .finish()
        .map_err(said)?;
    match status {
        200..300 => Ok(()),
        _ => Err(format!("OpenBao answered {path} with status {status}")),
    }
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("the manifest sets no `{name}` in [env]"))
}
