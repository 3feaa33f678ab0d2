//! An agent that asks for evidence of itself as its input says, one command a line, and answers with one line for each. It needs a grant of
//! evidence: what it imports is linked only then. It verifies nothing.

use claviger_sdk::{Error, attestation};

claviger_sdk::agent!(run);

#[expect(clippy::needless_pass_by_value, reason = "the agent is given its input")]
fn run(input: String) -> Result<String, Error> {
    let mut answers = Vec::new();
    for line in input.lines() {
        answers.push(obey(line)?);
    }
    Ok(answers.join("\n"))
}

/// Refusals are answers, so that a test can go on after one; everything else that fails ends the run.
fn obey(line: &str) -> Result<String, Error> {
    let words: Vec<&str> = line.split(' ').collect();
    let answered = match words.as_slice() {
        ["attest", audience, nonce] => attest(audience, nonce),
        ["grants"] => grants(),
        _ => return Err(Error::Other(format!("the test agent has no command {line:?}"))),
    };
    match answered {
        Err(Error::Refused(refusal)) => Ok(format!("refused {refusal:?}")),
        other => other,
    }
}

/// Evidence for an audience and a nonce in hexadecimal: the token, then the rest in hexadecimal, with spaces between.
fn attest(audience: &str, nonce: &str) -> Result<String, Error> {
    let nonce: Vec<u8> = (0..nonce.len() / 2)
        .map(|at| u8::from_str_radix(nonce.get(at * 2..at * 2 + 2).unwrap_or("zz"), 16))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Other(error.to_string()))?;
    let evidence = attestation::evidence(audience, &nonce)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok([
        evidence.token,
        hex(&evidence.quote),
        hex(&evidence.quote_signature),
        hex(&evidence.pcrs),
        hex(evidence.attestation_key.as_bytes()),
        hex(evidence.token_key.as_bytes()),
    ]
    .join(" "))
}

fn grants() -> Result<String, Error> {
    let line = |grant: claviger_sdk::Grant| format!("{}:{}", grant.alias, grant.capability);
    let lines: Vec<_> = claviger_sdk::grants()?.into_iter().map(line).collect();
    Ok(lines.join(","))
}
