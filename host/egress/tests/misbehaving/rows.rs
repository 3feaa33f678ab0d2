//! The rows, by what is wrong.

use claviger_core::egress::Fault;

use super::Expect::{Answer, Fault as Fails};
use super::{Row, Step, row};

pub(super) fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(slow_and_short());
    rows.extend(lengths());
    rows.extend(chunks());
    rows.extend(bombs());
    rows.extend(early());
    rows.extend(super::heads::all());
    rows
}

fn steps(name: &str, steps: Vec<Step>, expect: super::Expect) -> Row {
    Row {
        name: name.to_owned(),
        steps,
        expect,
    }
}

fn write(text: &str) -> Step {
    Step::Write(text.as_bytes().to_vec())
}

fn slow_and_short() -> Vec<Row> {
    use Step::{Bare, Close, Cut, Read, Reset, Trickle, Wait};
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe";
    let open = "HTTP/1.1 200 OK\r\n\r\nhello";
    let chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    vec![
        steps(
            "control: one answer",
            vec![Read, write(whole), Wait],
            Answer(200, "hello"),
        ),
        steps(
            "control: byte by byte",
            vec![Read, Trickle(whole.into()), Wait],
            Answer(200, "hello"),
        ),
        steps(
            "control: to the end",
            vec![Read, write(open), Close],
            Answer(200, "hello"),
        ),
        steps("silence", vec![Read, Wait], Fails(Fault::Timeout)),
        steps(
            "half a status line",
            vec![Read, write("HTTP/1.1 20"), Wait],
            Fails(Fault::Timeout),
        ),
        steps(
            "a head without its end",
            vec![Read, Trickle(whole[..30].into()), Wait],
            Fails(Fault::Timeout),
        ),
        steps(
            "half a body",
            vec![Read, write(half), Wait],
            Fails(Fault::Timeout),
        ),
        steps(
            "a chunk without a next",
            vec![Read, write(chunk), Wait],
            Fails(Fault::Timeout),
        ),
        steps(
            "a body without an end",
            vec![Read, write(open), Wait],
            Fails(Fault::Timeout),
        ),
        steps(
            "goodbye instead of an answer",
            vec![Read, Close],
            Fails(Fault::Incomplete),
        ),
        steps(
            "cut instead of an answer",
            vec![Read, Cut],
            Fails(Fault::Incomplete),
        ),
        steps(
            "reset instead of an answer",
            vec![Read, Reset],
            Fails(Fault::Incomplete),
        ),
        // Neither is a failed handshake: the request is out.
        steps(
            "noise instead of a record",
            vec![Read, Bare(vec![0xff; 64]), Wait],
            Fails(Fault::Protocol),
        ),
        steps(
            "a record that does not decrypt",
            vec![Read, Bare([&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat()), Wait],
            Fails(Fault::Protocol),
        ),
        steps(
            "a record that does not decrypt, in the body",
            vec![
                Read,
                write(half),
                Bare([&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat()),
                Wait,
            ],
            Fails(Fault::Protocol),
        ),
        steps(
            "goodbye in the head",
            vec![Read, write(&whole[..30]), Close],
            Fails(Fault::Incomplete),
        ),
        steps(
            "cut in the head",
            vec![Read, write(&whole[..30]), Cut],
            Fails(Fault::Incomplete),
        ),
        steps(
            "goodbye in the body",
            vec![Read, write(half), Close],
            Fails(Fault::Incomplete),
        ),
        steps(
            "cut in the body",
            vec![Read, write(half), Cut],
            Fails(Fault::Incomplete),
        ),
        steps(
            "reset in the body",
            vec![Read, write(half), Reset],
            Fails(Fault::Incomplete),
        ),
        steps(
            "goodbye between chunks",
            vec![Read, write(chunk), Close],
            Fails(Fault::Incomplete),
        ),
        steps(
            "cut between chunks",
            vec![Read, write(chunk), Cut],
            Fails(Fault::Incomplete),
        ),
        // An attacker on the way can cut a body that ends with the connection, unless TLS says goodbye.
        steps(
            "cut of a body to the end",
            vec![Read, write(open), Cut],
            Fails(Fault::Incomplete),
        ),
    ]
}

fn lengths() -> Vec<Row> {
    let with = |name: &str, fields: &str, expect| {
        row(name, format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello"), expect)
    };
    vec![
        with("bytes after the answer", "content-length: 2", Answer(200, "he")),
        with(
            "the length twice",
            "content-length: 5\r\ncontent-length: 5",
            Fails(Fault::Protocol),
        ),
        with(
            "two lengths",
            "content-length: 5\r\ncontent-length: 2",
            Fails(Fault::Protocol),
        ),
        with(
            "a list of lengths",
            "content-length: 5, 5",
            Fails(Fault::Protocol),
        ),
        with("a signed length", "content-length: +5", Fails(Fault::Protocol)),
        with("a negative length", "content-length: -5", Fails(Fault::Protocol)),
        with(
            "a hexadecimal length",
            "content-length: 0x5",
            Fails(Fault::Protocol),
        ),
        with("a spaced length", "content-length: 5 5", Fails(Fault::Protocol)),
        with("an empty length", "content-length:", Fails(Fault::Protocol)),
        with(
            "a length beyond 64 bits",
            "content-length: 99999999999999999999999",
            Fails(Fault::Protocol),
        ),
        with(
            "a length and chunks",
            "content-length: 5\r\ntransfer-encoding: chunked",
            Fails(Fault::Protocol),
        ),
        with(
            "another transfer encoding",
            "transfer-encoding: gzip",
            Fails(Fault::Protocol),
        ),
        with(
            "gzip in chunks",
            "transfer-encoding: gzip, chunked",
            Fails(Fault::Protocol),
        ),
        with(
            "chunks not last",
            "transfer-encoding: chunked, identity",
            Fails(Fault::Protocol),
        ),
        with("identity", "transfer-encoding: identity", Fails(Fault::Protocol)),
        with(
            "nearly chunks",
            "transfer-encoding: xchunked",
            Fails(Fault::Protocol),
        ),
        with(
            "chunks twice",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            Fails(Fault::Protocol),
        ),
        row(
            "chunks of HTTP/1.0",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Fails(Fault::Protocol),
        ),
        row(
            "a second answer nobody asked for",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
            Answer(200, "ok"),
        ),
        row(
            "a body for 204",
            "HTTP/1.1 204 None\r\ncontent-length: 2\r\n\r\nno",
            Answer(204, ""),
        ),
        row(
            "a body for 304",
            "HTTP/1.1 304 Same\r\ncontent-length: 2\r\n\r\nno",
            Answer(304, ""),
        ),
    ]
}

fn chunks() -> Vec<Row> {
    let with = |name: &str, chunks: String, expect| {
        row(
            name,
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"),
            expect,
        )
    };
    let ok = "2\r\nok\r\n0\r\n\r\n".to_owned();
    vec![
        with("control: chunks", ok.clone(), Answer(200, "ok")),
        with(
            "control: an extension",
            "2;a=b\r\nok\r\n0\r\n\r\n".to_owned(),
            Answer(200, "ok"),
        ),
        with(
            "a chunk that is no number",
            "zz\r\nok\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "a negative chunk",
            "-2\r\nok\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "a prefixed chunk",
            "0x2\r\nok\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "an empty chunk size",
            "\r\nok\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "a chunk beyond 64 bits",
            "fffffffffffffffff\r\nok\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "a chunk of 16 EiB",
            "ffffffffffffffff\r\nok\r\n".to_owned(),
            Fails(Fault::Incomplete),
        ),
        with(
            "a chunk longer than it says",
            "2\r\nokay\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "a chunk shorter than it says",
            "9\r\nok\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Incomplete),
        ),
        with(
            "a chunk ended by LF",
            "2\nok\r\n0\r\n\r\n".to_owned(),
            Fails(Fault::Protocol),
        ),
        with(
            "an extension bomb",
            format!("2;{}\r\nok\r\n0\r\n\r\n", "a".repeat(64 << 10)),
            Fails(Fault::Protocol),
        ),
        with(
            "many small extension bombs",
            "1;aaaaaaaaaaaaaaaa\r\nx\r\n".repeat(4 << 10) + "0\r\n\r\n",
            Fails(Fault::Protocol),
        ),
        with(
            "no last chunk",
            "2\r\nok\r\n".to_owned(),
            Fails(Fault::Incomplete),
        ),
        with(
            "no end after the last chunk",
            "2\r\nok\r\n0\r\n".to_owned(),
            Fails(Fault::Incomplete),
        ),
    ]
}

fn bombs() -> Vec<Row> {
    let flood = |name: &str, head: &str, drop: &str, expect| {
        let steps = vec![
            Step::Read,
            write(head),
            Step::Flood(drop.repeat(1000).into_bytes()),
        ];
        Row {
            name: name.to_owned(),
            steps,
            expect,
        }
    };
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        row(
            "control: 100 fields",
            format!(
                "HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok",
                "x-a: b\r\n".repeat(99)
            ),
            Answer(200, "ok"),
        ),
        row(
            "101 fields",
            format!(
                "HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok",
                "x-a: b\r\n".repeat(100)
            ),
            Fails(Fault::HeadTooLarge),
        ),
        row(
            "one large field",
            format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "b".repeat(64 << 10)),
            Fails(Fault::HeadTooLarge),
        ),
        row(
            "a long reason",
            format!("HTTP/1.1 200 {}\r\n\r\n", "b".repeat(64 << 10)),
            Fails(Fault::HeadTooLarge),
        ),
        flood(
            "a head without end",
            "HTTP/1.1 200 OK\r\n",
            "x-a: b\r\n",
            Fails(Fault::HeadTooLarge),
        ),
        flood(
            "a field without end",
            "HTTP/1.1 200 OK\r\nx-a: ",
            "b",
            Fails(Fault::HeadTooLarge),
        ),
        flood(
            "a status line without end",
            "HTTP/1.1 200 ",
            "b",
            Fails(Fault::HeadTooLarge),
        ),
        flood(
            "trailers without end",
            &format!("{chunked}0\r\n"),
            "x-a: b\r\n",
            Fails(Fault::Protocol),
        ),
        flood(
            "10 GB that are announced",
            "HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n",
            "x",
            Fails(Fault::BodyTooLarge),
        ),
        flood(
            "a body without end",
            "HTTP/1.1 200 OK\r\n\r\n",
            "x",
            Fails(Fault::BodyTooLarge),
        ),
        flood(
            "chunks without end",
            chunked,
            "5\r\nhello\r\n",
            Fails(Fault::BodyTooLarge),
        ),
        row(
            "a byte too many",
            format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat((64 << 10) + 1)),
            Fails(Fault::BodyTooLarge),
        ),
    ]
}

fn early() -> Vec<Row> {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let times = |count: usize, line: &str| format!("{}{ok}", format!("{line}\r\n\r\n").repeat(count));
    vec![
        row(
            "control: hints",
            times(3, "HTTP/1.1 103 Early\r\nlink: </x>"),
            Answer(200, "ok"),
        ),
        row(
            "control: continue",
            times(1, "HTTP/1.1 100 Continue"),
            Answer(200, "ok"),
        ),
        row(
            "a storm of hints",
            times(100, "HTTP/1.1 103 Early\r\nlink: </x>"),
            Fails(Fault::Protocol),
        ),
        row(
            "a storm of continues",
            times(9, "HTTP/1.1 100 Continue"),
            Fails(Fault::Protocol),
        ),
        steps(
            "continues without end",
            vec![
                Step::Read,
                Step::Flood(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()),
            ],
            Fails(Fault::Protocol),
        ),
        row(
            "switching protocols",
            "HTTP/1.1 101 Switch\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            Fails(Fault::Protocol),
        ),
        row(
            "switching to h2c",
            "HTTP/1.1 101 Switch\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            Fails(Fault::Protocol),
        ),
        steps(
            "an answer before the question is over",
            vec![Step::ReadSome(10), write(ok), Step::Wait],
            Answer(200, "ok"),
        ),
    ]
}
