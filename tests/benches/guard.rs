//! The decision of one use among 200 grants, each with every constraint there is: find the grant and what the log says of it,
//! and ask every rule; and the same of a request among 200 grants of 50 paths each. No log, no key, no credential.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark stops at the first surprise, and nobody calls it"
)]

use std::fmt::Write as _;
use std::hint::black_box;

use claviger_broker::guard::{self, BodyLength};
use claviger_broker::ledger::Ledger;
use claviger_core::audit::{Entry, Event, Use};
use claviger_core::egress::RequestHead;
use claviger_core::http::{self, BodyPresence, Router};
use claviger_core::manifest::Capability;
use claviger_core::{
    AgentName, ComponentDigest, ContentDigest, GrantAlias, InstanceId, KeyRef, KeyVersion, Manifest,
};
use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;

const GRANTS: usize = 200;

fn manifest() -> Manifest {
    let mut grants = String::new();
    for n in 0..GRANTS {
        writeln!(
            grants,
            "[grants.grant-{n}]\nsign = {{ key = \"key-{n}\" }}\nuses = 1000\nrate = \"100/hour\"\n\
             hours = [\"Mon-Fri 08:00-18:00 Europe/Zurich\", \"Sat,Sun 10:00-12:00 America/New_York\"]\n\
             expires = 2030-01-01T00:00:00Z"
        )
        .unwrap();
    }
    kit::manifest(&grants)
}

/// Every grant was used once.
fn ledger(manifest: &Manifest, agent: &AgentName, now: Timestamp) -> Ledger {
    let mut ledger = Ledger::default();
    for (index, alias) in (0..).zip(manifest.grants.keys()) {
        let key = KeyRef {
            name: "key".parse().unwrap(),
            version: KeyVersion::FIRST,
        };
        let allowed = Use {
            instance: InstanceId(1),
            agent: agent.clone(),
            component: ComponentDigest::of(b""),
            manifest: manifest.digest,
            grant: alias.clone(),
            key: Some(key),
            secret: None,
            profile: "labeled".to_owned(),
            operation: None,
            request: None,
            content: ContentDigest::of(b""),
            size: 0,
            number: 1,
            rate_until: Some(now),
            approval: None,
        };
        let entry = Entry {
            time: now,
            event: Event::Allowed(allowed),
        };
        ledger.apply(index, &entry);
    }
    ledger
}

fn decide(criterion: &mut Criterion) {
    let manifest = manifest();
    let agent: AgentName = "test".parse().unwrap();
    // A Sunday in New York: both windows are looked at.
    let now: Timestamp = "2026-06-07T15:00:00Z".parse().unwrap();
    let ledger = ledger(&manifest, &agent, now);
    let aliases: Vec<GrantAlias> = manifest.grants.keys().cloned().collect();
    let mut turn = aliases.iter().cycle();
    criterion.bench_function("guard/decide-200", |b| {
        b.iter(|| {
            let alias = black_box(turn.next().unwrap());
            let constraints = &manifest.grants.get(alias).unwrap().constraints;
            let time = guard::trusted_time(black_box(now), ledger.latest()).unwrap();
            guard::decide(constraints, &ledger.grant(&agent, alias), time).unwrap()
        });
    });
}

const PATHS: usize = 50;

/// Many grants for one origin, with one wildcard in each path. Short paths: all of it is just under the size of a manifest.
fn http_manifest() -> Manifest {
    let mut grants = String::new();
    for n in 0..GRANTS {
        write!(
            grants,
            "[grants.grant-{n}]\nuses = 1000\nrate = \"100/hour\"\nexpires = 2030-01-01T00:00:00Z\n\
             http = {{ origin = \"https://api.test\", query = [\"page\", \"sort\"], allow = ["
        )
        .unwrap();
        for path in 0..PATHS {
            write!(grants, "\"GET /t{n}/*/p{path}\",").unwrap();
        }
        writeln!(grants, "] }}").unwrap();
    }
    kit::manifest(&grants)
}

fn decide_request(criterion: &mut Criterion) {
    let manifest = http_manifest();
    let agent: AgentName = "test".parse().unwrap();
    let now: Timestamp = "2026-06-07T15:00:00Z".parse().unwrap();
    let ledger = ledger(&manifest, &agent, now);
    let mut router = Router::default();
    let grant_of = |alias: &GrantAlias| match &manifest.grants.get(alias)?.capability {
        Capability::Http(http) => Some(http.as_ref()),
        Capability::Sign { .. }
        | Capability::Seal { .. }
        | Capability::Mac { .. }
        | Capability::Attest(_) => None,
    };
    for alias in manifest.grants.keys() {
        let grant = grant_of(alias).unwrap();
        router.add(alias, &grant.origin, &grant.allow);
    }
    let heads: Vec<RequestHead> = (0..GRANTS)
        .map(|n| RequestHead {
            method: "GET".to_owned(),
            url: format!("https://api.test/t{n}/users/p{}?page=7", n % PATHS),
            headers: vec![("accept".to_owned(), b"application/json".to_vec())],
        })
        .collect();
    let mut turn = heads.iter().cycle();
    criterion.bench_function("guard/decide-200x50", |b| {
        b.iter(|| {
            let head = black_box(turn.next().unwrap());
            let decided = http::decide(&router, grant_of, head, BodyPresence::Absent).unwrap();
            let constraints = &manifest.grants.get(decided.alias).unwrap().constraints;
            let state = ledger.grant(&agent, decided.alias);
            let time = guard::trusted_time(black_box(now), ledger.latest()).unwrap();
            guard::decide(constraints, &state, time).unwrap();
            let grant = decided.grant;
            guard::room(&grant.budget, &state, BodyLength::Known(0), grant.answer.max.0).unwrap()
        });
    });
}

criterion_group!(benches, decide, decide_request);
criterion_main!(benches);
