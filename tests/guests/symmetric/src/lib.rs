//! An agent that seals, unseals, and makes and verifies MACs as its input says, one command a line, and answers with one line for each. It
//! needs a grant of each kind: what it imports is linked only then. Hostile where it can be; what it tries is listed in [`obey`].

use std::collections::BTreeMap;

use claviger_sdk::bindings::claviger::credentials::sealing as raw;
use claviger_sdk::mac::Authenticator;
use claviger_sdk::sealing::Sealer;
use claviger_sdk::{Error, Refusal};

claviger_sdk::agent!(run);

#[expect(clippy::needless_pass_by_value, reason = "the agent is given its input")]
fn run(input: String) -> Result<String, Error> {
    let mut answers = Vec::new();
    for line in input.lines() {
        answers.push(obey(line)?);
    }
    Ok(answers.join("\n"))
}

/// Refusals are answers, so that a test can go on after one; everything else that fails ends the run. `-` is nothing at all.
fn obey(line: &str) -> Result<String, Error> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["seal", alias, context, text] => answered(seal(alias, bytes(context), bytes(text))),
        ["seal-size", alias, context, text] => {
            let (context, text) = (vec![b'c'; number(context)?], vec![b't'; number(text)?]);
            answered(sealed(alias, &context, &text).map(|sealed| format!("sealed {}", sealed.len())))
        }
        ["seal-claimed", alias, size] => answered(seal_claimed(alias, number(size)?)),
        ["unseal", alias, context, sealed] => answered(unseal(alias, bytes(context), &hex(sealed)?)),
        ["unseal-size", alias, size] => answered(unseal(alias, b"c", &vec![0xB1; number(size)?])),
        ["unseal-cut", alias, context, sealed] => {
            let sealed = hex(sealed)?;
            let cut = (0..sealed.len()).filter_map(|length| sealed.get(..length).map(<[u8]>::to_vec));
            unseal_each(alias, bytes(context), cut)
        }
        ["unseal-changed", alias, context, sealed] => {
            unseal_each(alias, bytes(context), changed(&hex(sealed)?))
        }
        ["tag", alias, content] => answered(tag(alias, bytes(content)).map(|tag| digits(&tag))),
        ["tag-size", alias, size] => {
            answered(tag(alias, &vec![b'c'; number(size)?]).map(|tag| format!("tag {}", tag.len())))
        }
        ["verify", alias, tag, content] => answered(verify(alias, bytes(content), &hex(tag)?)),
        ["verify-size", alias, size] => answered(verify(alias, b"c", &vec![0xA1; number(size)?])),
        ["verify-changed", alias, content, tag] => verify_each(alias, bytes(content), changed(&hex(tag)?)),
        ["sealer", alias] => answered(sealer_info(alias)),
        ["authenticator", alias] => answered(mac_info(alias)),
        ["open-sealers", alias, count] => open_many(number(count)?, || Sealer::open(alias)),
        ["open-authenticators", alias, count] => open_many(number(count)?, || Authenticator::open(alias)),
        ["grants"] => answered(grants()),
        ["print", size] => print(number(size)?),
        _ => Err(Error::Other(format!("the test agent has no command {line:?}"))),
    }
}

fn bytes(word: &str) -> &[u8] {
    if word == "-" { b"" } else { word.as_bytes() }
}

fn sealed(alias: &str, context: &[u8], text: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(Sealer::open(alias)?.seal(text, context)?)
}

fn seal(alias: &str, context: &[u8], text: &[u8]) -> Result<String, Error> {
    sealed(alias, context, text).map(|sealed| digits(&sealed))
}

fn unseal(alias: &str, context: &[u8], sealed: &[u8]) -> Result<String, Error> {
    let text = Sealer::open(alias)?.unseal(sealed, context)?;
    Ok(String::from_utf8(text)?)
}

/// Says that it has this much to seal, wherever it may be.
fn seal_claimed(alias: &str, size: usize) -> Result<String, Error> {
    let sealer = raw::Sealer::open(alias).map_err(Refusal::from)?;
    #[expect(unsafe_code, reason = "an attacker does not keep to safe Rust")]
    // SAFETY: none. The list reaches beyond the memory; the host must see that.
    let claimed = unsafe { std::slice::from_raw_parts(std::ptr::without_provenance(16), size) };
    let sealed = sealer.seal(claimed, b"c").map_err(Refusal::from)?;
    Ok(format!("sealed {}", sealed.len()))
}

/// Tries many boxes and counts what came of it.
fn unseal_each(alias: &str, context: &[u8], boxes: impl Iterator<Item = Vec<u8>>) -> Result<String, Error> {
    let sealer = Sealer::open(alias)?;
    Ok(counted(boxes.map(
        |sealed| match sealer.unseal(sealed, context) {
            Ok(_) => "opened".to_owned(),
            Err(refusal) => format!("{refusal:?}"),
        },
    )))
}

fn tag(alias: &str, content: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(Authenticator::open(alias)?.generate(content)?)
}

fn verify(alias: &str, content: &[u8], tag: &[u8]) -> Result<String, Error> {
    Ok(Authenticator::open(alias)?.verify(content, tag)?.to_string())
}

/// Tries many tags and counts what came of it.
fn verify_each(alias: &str, content: &[u8], tags: impl Iterator<Item = Vec<u8>>) -> Result<String, Error> {
    let authenticator = Authenticator::open(alias)?;
    Ok(counted(tags.map(
        |tag| match authenticator.verify(content, tag) {
            Ok(valid) => valid.to_string(),
            Err(refusal) => format!("{refusal:?}"),
        },
    )))
}

/// Every way to change one bit of one byte, a different bit in each byte.
fn changed(whole: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..whole.len()).map(|at| {
        let mut changed = whole.to_vec();
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        changed
    })
}

fn counted(outcomes: impl Iterator<Item = String>) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for outcome in outcomes {
        *counts.entry(outcome).or_default() += 1;
    }
    counts
        .iter()
        .map(|(what, count)| format!("{what}={count}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn sealer_info(alias: &str) -> Result<String, Error> {
    let info = Sealer::open(alias)?.info()?;
    Ok(format!("{} {} v{}", info.algorithm, info.key_id, info.version))
}

fn mac_info(alias: &str) -> Result<String, Error> {
    let info = Authenticator::open(alias)?.info()?;
    Ok(format!(
        "{} {} v{} {}",
        info.algorithm, info.key_id, info.version, info.label
    ))
}

fn open_many<T>(count: usize, open: impl Fn() -> Result<T, Refusal>) -> Result<String, Error> {
    let mut held = Vec::new();
    for _ in 0..count {
        match open() {
            Ok(one) => held.push(one),
            Err(refusal) => return Ok(format!("refused {refusal:?} after {}", held.len())),
        }
    }
    Ok(format!("opened {}", held.len()))
}

fn grants() -> Result<String, Error> {
    let line =
        |grant: claviger_sdk::Grant| format!("{}:{}:{:?}", grant.alias, grant.capability, grant.uses_left);
    let all: Vec<_> = claviger_sdk::grants()?.into_iter().map(line).collect();
    Ok(all.join(","))
}

#[expect(clippy::print_stdout, reason = "what happens there is what is tested")]
fn print(bytes: usize) -> Result<String, Error> {
    use std::io::Write as _;
    print!("{}", "o".repeat(bytes));
    std::io::stdout().flush()?;
    Ok(format!("printed {bytes}"))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex(digits: &str) -> Result<Vec<u8>, Error> {
    let digits = bytes(digits);
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(Error::from))
        .collect()
}

fn number(text: &str) -> Result<usize, Error> {
    text.parse()
        .map_err(|_| Error::Other(format!("expected a number, not {text:?}")))
}

fn answered(result: Result<String, Error>) -> Result<String, Error> {
    match result {
        Err(Error::Refused(refusal)) => Ok(format!("refused {refusal:?}")),
        other => other,
    }
}
