//! Which addresses are dialed: what a resolver says is checked before anything leaves, and asked for once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use claviger_core::Refusal;
use claviger_core::egress::{Egress as _, Fault, SendError};
use claviger_core::http::{PathEncoding, Target};

use crate::kit::server::{Server, Step};
use crate::kit::{Table, client, destination, get, permit, read, run};

fn answers() -> Vec<Step> {
    vec![
        Step::Read,
        Step::Write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        Step::Close,
    ]
}

#[tokio::test]
async fn a_name_that_leads_inside_opens_no_connection() {
    let server = Server::start(answers()).await;
    for inside in [
        &["127.0.0.1"][..],
        &["8.8.8.8", "127.0.0.1"],
        &["::ffff:127.0.0.1"],
        &["::1"],
        &["0.0.0.0"],
    ] {
        let mut destination = destination(server.port);
        destination.private_networks.clear();
        let seen = run(&client(Table::new(&[inside])), get(destination)).await;
        assert_eq!(seen.error, Some(Fault::ForbiddenAddress.into()), "{inside:?}");
    }
    assert_eq!(server.saw(|saw| saw.connections), 0);
    // The positive control: with the exception, the same server answers.
    let seen = run(&client(Table::loopback()), get(destination(server.port))).await;
    assert_eq!((seen.status, seen.body.as_slice()), (Some(200), &b"ok"[..]));
    assert_eq!(server.saw(|saw| saw.connections), 1);
}

#[tokio::test]
async fn a_resolver_that_changes_its_mind_is_asked_once_a_connection_and_checked_each_time() {
    let server = Server::start(answers()).await;
    let rebinding = Table::new(&[&["127.0.0.1"], &["169.254.169.254"], &["127.0.0.1"]]);
    let client = client(rebinding.clone());
    for (round, expected) in [None, Some(Fault::ForbiddenAddress.into()), None]
        .into_iter()
        .enumerate()
    {
        let seen = run(&client, get(destination(server.port))).await;
        assert_eq!(seen.error, expected, "round {round}");
        assert_eq!(rebinding.lookups.load(Ordering::SeqCst), round + 1);
    }
    assert_eq!(server.saw(|saw| saw.connections), 2);
}

#[tokio::test]
async fn a_permit_for_elsewhere_asks_no_resolver() {
    let server = Server::start(answers()).await;
    let table = Table::loopback();
    let client = client(table.clone());
    let refused = SendError::Refused {
        refusal: Refusal::NotGranted,
        grant: None,
    };
    let elsewhere = permit(&"https://other.test".parse().unwrap()).await;
    let seen = read(client.send(&elsewhere, get(destination(server.port))).await).await;
    assert_eq!(seen.error, Some(refused.clone()));
    // And a plan whose target left its destination.
    let mut plan = get(destination(server.port));
    let there = permit(&plan.destination.origin).await;
    plan.target = Target::parse("https://other.test/v1/x", PathEncoding::Refused).unwrap();
    assert_eq!(read(client.send(&there, plan).await).await.error, Some(refused));
    assert_eq!(table.lookups.load(Ordering::SeqCst), 0);
    assert_eq!(server.saw(|saw| saw.connections), 0);
}

#[tokio::test]
async fn names_that_lead_nowhere_and_ports_where_nobody_listens_are_told_apart() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for (table, fault) in [
        (Table::new(&[]), Fault::NoAddress),
        (Table::new(&[&[]]), Fault::NoAddress),
        (Table::loopback(), Fault::NoConnection),
        (Table::new(&[&["127.0.0.1", "127.0.0.2"]]), Fault::NoConnection),
    ] {
        let seen = run(&client(table), get(destination(port))).await;
        assert_eq!(seen.error, Some(fault.into()));
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_takes_no_connection() {
    let server = Server::start(answers()).await;
    // The server listens at 127.0.0.1 alone.
    let table: Arc<Table> = Table::new(&[&["127.0.0.9", "127.0.0.1"]]);
    let seen = run(&client(table), get(destination(server.port))).await;
    assert_eq!(seen.status, Some(200));
}
