//! An agent that does what its input says, one command a line, and answers with one line for each. Hostile where it can be; what
//! it tries is listed in [`obey`].

mod greedy;
mod hostile;

use std::time::{Duration, Instant, SystemTime};

use claviger_sdk::{Error, Signer, Wish};

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
#[expect(clippy::exit, reason = "what the host makes of it is what is tested")]
fn obey(line: &str) -> Result<String, Error> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
    match command {
        "sign" => answered(sign(first, second.as_bytes())),
        "sign-size" => answered(sign(first, &vec![b'x'; number(second)?])),
        "sign-claimed" => answered(hostile::sign_claimed(first, number(second)?)),
        "sign-loop" => sign_loop(first, number(second)?),
        "sign-until-refused" => sign_until_refused(first),
        "open" => answered(
            Signer::open(first)
                .map(|_| "opened".to_owned())
                .map_err(Error::from),
        ),
        "open-many" => open_many(first, number(second)?),
        "info" => answered(info(first)),
        "grants" => answered(grants()),
        "wish-key" => answered(wish(
            first,
            Wish::Sign {
                key: second.to_owned(),
            },
        )),
        "wish-routes" => answered(wish_routes(first, second)),
        "echo" => Ok(rest.to_owned()),
        "fail" => Err(Error::Other(rest.to_owned())),
        "exit" => std::process::exit(i32::from(rest != "0")),
        "print" => print(number(first)?),
        "print-error" => print_error(number(first)?),
        "answer" => Ok("a".repeat(number(first)?)),
        "env" => Ok(std::env::vars()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(",")),
        "args" => Ok(std::env::args().collect::<Vec<_>>().join(",")),
        "read" => Ok(said(std::fs::read_to_string(first))),
        "write" => Ok(said(std::fs::write(first, second).map(|()| "written".to_owned()))),
        "remove" => Ok(said(std::fs::remove_file(first).map(|()| "removed".to_owned()))),
        "list" => Ok(said(list(first))),
        "make-files" => Ok(said(greedy::make(first, number(second)?))),
        "count" => Ok(said(greedy::count(first))),
        "kinds" => Ok(said(greedy::kinds(first))),
        "hold-files" => Ok(said(greedy::hold_files(first, number(second)?))),
        "hold-listings" => Ok(said(greedy::hold_listings(first, number(second)?))),
        "hold-file-streams" => {
            let (files, each) = second.split_once(' ').ok_or("expected two numbers")?;
            Ok(greedy::hold_file_streams(first, number(files)?, number(each)?).unwrap_or_else(|error| error))
        }
        "hold-streams" => Ok(greedy::hold_streams(number(first)?)),
        "write-at-once" => Ok(greedy::write_at_once(number(first)?)),
        "sign-grown" => answered(greedy::sign_grown(first, number(second)?)),
        "connect" => Ok(said(
            std::net::TcpStream::connect(first).map(|_| "connected".to_owned()),
        )),
        "resolve" => Ok(said(
            std::net::ToSocketAddrs::to_socket_addrs(first).map(|_| "resolved".to_owned()),
        )),
        "clock" => Ok(clock()),
        "random" => hostile::random(number(first)?),
        "sleep" => {
            std::thread::sleep(Duration::from_millis(u64::try_from(number(first)?)?));
            Ok("slept".to_owned())
        }
        "hold" => Ok(hostile::hold(rest)),
        "held" => Ok(hostile::held()),
        "hold-hex" => hostile::hold_hex(first),
        "loop" => hostile::spin(),
        "alloc" => hostile::allocate(),
        "recurse" => Ok(hostile::recurse(u64::MAX).to_string()),
        "print-forever" => loop {
            print(65_536)?;
        },
        "trap" => std::process::abort(),
        other => Err(Error::Other(format!("the test agent has no command {other:?}"))),
    }
}

fn sign(alias: &str, content: &[u8]) -> Result<String, Error> {
    let signature = Signer::open(alias)?.sign(content)?;
    Ok(match String::from_utf8(signature) {
        Ok(text) => text.replace('\n', "|"),
        Err(raw) => raw.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Signs 32 bytes again and again and counts what came of it.
fn sign_loop(alias: &str, times: usize) -> Result<String, Error> {
    let signer = match Signer::open(alias) {
        Ok(signer) => signer,
        Err(refusal) => return Ok(format!("refused {refusal:?}")),
    };
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..times {
        let outcome = match signer.sign([b'x'; 32]) {
            Ok(_) => "signed".to_owned(),
            Err(refusal) => format!("{refusal:?}"),
        };
        *counts.entry(outcome).or_default() += 1;
    }
    Ok(counts
        .iter()
        .map(|(what, count)| format!("{what}={count}"))
        .collect::<Vec<_>>()
        .join(" "))
}

/// Signs 32 bytes again and again until that is refused, and says how.
fn sign_until_refused(alias: &str) -> Result<String, Error> {
    let signer = Signer::open(alias)?;
    let mut signed: u64 = 0;
    loop {
        match signer.sign([b'x'; 32]) {
            Ok(_) => signed = signed.saturating_add(1),
            Err(refusal) => return Ok(format!("signed {signed}, then {refusal:?}")),
        }
    }
}

fn open_many(alias: &str, count: usize) -> Result<String, Error> {
    let mut open = Vec::new();
    for _ in 0..count {
        match Signer::open(alias) {
            Ok(signer) => open.push(signer),
            Err(refusal) => return Ok(format!("refused {refusal:?} after {}", open.len())),
        }
    }
    Ok(format!("opened {}", open.len()))
}

fn info(alias: &str) -> Result<String, Error> {
    let info = Signer::open(alias)?.info()?;
    Ok(format!(
        "{} {} {} v{} {}",
        info.profile, info.algorithm, info.key_id, info.version, info.public_key
    ))
}

fn grants() -> Result<String, Error> {
    let line = |grant: claviger_sdk::Grant| {
        format!(
            "{}:{}:{:?}:{:?}:{:?}",
            grant.alias, grant.capability, grant.uses_left, grant.expires, grant.refused
        )
    };
    Ok(claviger_sdk::grants()?
        .into_iter()
        .map(line)
        .collect::<Vec<_>>()
        .join(","))
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for this call")]
fn wish(alias: &str, wish: Wish) -> Result<String, Error> {
    claviger_sdk::request_grant(alias, &wish, "to get the work done\n\u{1b}[2J")?;
    Ok("proposed".to_owned())
}

/// An origin and routes, with `;` between them.
fn wish_routes(alias: &str, rest: &str) -> Result<String, Error> {
    let mut texts = rest.split(';').map(str::to_owned);
    let origin = texts.next().unwrap_or_default();
    let allow = texts.collect();
    wish(alias, Wish::Http { origin, allow })
}

/// The smallest step seen on both clocks, in nanoseconds: what they resolve.
fn clock() -> String {
    let wall = || {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    };
    let start = Instant::now();
    let (mut smallest_wall, mut smallest_monotonic) = (Duration::MAX, Duration::MAX);
    let (mut last_wall, mut last_monotonic) = (wall(), start.elapsed());
    for _ in 0..5 {
        while wall() == last_wall {}
        smallest_wall = smallest_wall.min(wall().saturating_sub(last_wall));
        last_wall = wall();
        while start.elapsed() == last_monotonic {}
        smallest_monotonic = smallest_monotonic.min(start.elapsed().saturating_sub(last_monotonic));
        last_monotonic = start.elapsed();
    }
    format!("{} {}", smallest_wall.as_nanos(), smallest_monotonic.as_nanos())
}

fn list(path: &str) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(","))
}

#[expect(clippy::print_stdout, reason = "what the host does with it is what is tested")]
fn print(bytes: usize) -> Result<String, Error> {
    use std::io::Write as _;
    print!("{}", "o".repeat(bytes));
    std::io::stdout().flush()?;
    Ok(format!("printed {bytes}"))
}

#[expect(clippy::print_stderr, reason = "what the host does with it is what is tested")]
fn print_error(bytes: usize) -> Result<String, Error> {
    eprint!("{}", "e".repeat(bytes));
    Ok(format!("printed {bytes}"))
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

fn said(result: std::io::Result<String>) -> String {
    result.unwrap_or_else(|error| format!("error {:?}", error.kind()))
}
