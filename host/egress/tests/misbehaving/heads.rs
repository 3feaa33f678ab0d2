//! The rows about heads: their lines, statuses and fields.

use claviger_core::egress::Fault;

use super::Expect::{Answer, Fault as Fails};
use super::{Row, row};

pub(super) fn all() -> Vec<Row> {
    let mut rows = heads();
    rows.extend(statuses());
    rows.extend(fields());
    rows
}

fn heads() -> Vec<Row> {
    let bad = |name: &str, answer: &[u8]| row(name, answer, Fails(Fault::Protocol));
    vec![
        bad("HTTP/0.9", b"<html>hello</html>\r\n\r\n"),
        bad("a preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        bad(
            "frames of HTTP/2",
            b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\r\n\r\n",
        ),
        bad("HTTP/2.0", b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        bad("HTTP/1.2", b"HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        bad(
            "HTTP in lower case",
            b"http/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        bad("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        bad("radio", b"ICY 200 OK\r\n\r\n"),
        bad("a request", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        bad(
            "a folded field",
            b"HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 2\r\n\r\nok",
        ),
        bad(
            "a folded first field",
            b"HTTP/1.1 200 OK\r\n x-a: b\r\ncontent-length: 2\r\n\r\nok",
        ),
        bad(
            "NUL in a value",
            b"HTTP/1.1 200 OK\r\nx-a: b\0c\r\ncontent-length: 2\r\n\r\nok",
        ),
        bad(
            "NUL in a name",
            b"HTTP/1.1 200 OK\r\nx\0a: b\r\ncontent-length: 2\r\n\r\nok",
        ),
        bad(
            "CR in a value",
            b"HTTP/1.1 200 OK\r\nx-a: b\rc\r\ncontent-length: 2\r\n\r\nok",
        ),
        bad(
            "a space before the colon",
            b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok",
        ),
        bad("a space in a name", b"HTTP/1.1 200 OK\r\nx a: 2\r\n\r\nok"),
        bad("no colon", b"HTTP/1.1 200 OK\r\ncontent-length\r\n\r\nok"),
        bad("no name", b"HTTP/1.1 200 OK\r\n: 2\r\n\r\nok"),
        bad(
            "a name beyond ASCII",
            "HTTP/1.1 200 OK\r\nä: 2\r\n\r\nok".as_bytes(),
        ),
        // RFC 9112 §2.2 lets a reader take LF for an end of line.
        row(
            "bare LF",
            "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
            Answer(200, "ok"),
        ),
        row(
            "HTTP/1.0",
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            Answer(200, "ok"),
        ),
        row(
            "no reason",
            "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
            Answer(200, "ok"),
        ),
        row(
            "bytes beyond ASCII in a value",
            "HTTP/1.1 200 OK\r\nx-a: ä\r\ncontent-length: 2\r\n\r\nok",
            Answer(200, "ok"),
        ),
    ]
}

fn statuses() -> Vec<Row> {
    let bad = |status: &str| {
        row(
            format!("status {status}"),
            format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok"),
            Fails(Fault::Protocol),
        )
    };
    let mut rows: Vec<Row> = [
        "000", "099", "600", "999", "20", "2000", "-200", "2 00", "0x1", "abc", "", "٢٠٠",
    ]
    .map(bad)
    .into();
    for status in [200, 299, 404, 418, 511, 599] {
        rows.push(row(
            format!("control: status {status}"),
            format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok"),
            Answer(status, "ok"),
        ));
    }
    rows
}

fn fields() -> Vec<Row> {
    let encoded = |encoding: &str| {
        row(
            format!("content in {encoding}"),
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: 2\r\n\r\nok"),
            Fails(Fault::Encoded),
        )
    };
    let mut rows: Vec<Row> = [
        "gzip",
        "GZIP",
        "br",
        "zstd",
        "deflate",
        "identity, gzip",
        "gzip, gzip",
        "aws-chunked",
        "",
    ]
    .map(encoded)
    .into();
    rows.extend([
        row(
            "control: content in identity",
            "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 2\r\n\r\nok",
            Answer(200, "ok"),
        ),
        row(
            "gzip in a second field",
            "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok",
            Fails(Fault::Encoded),
        ),
        row(
            "fields that no agent gets",
            "HTTP/1.1 200 OK\r\nset-cookie: a=b\r\nwww-authenticate: Basic\r\nauthentication-info: x\r\nproxy-authenticate: Basic\r\n\
             connection: keep-alive, etag\r\nkeep-alive: timeout=5\r\nupgrade: h2c\r\nx-debug: 1\r\ncontent-length: 2\r\n\r\nok",
            Answer(200, "ok"),
        ),
        row(
            "trailers that no agent gets",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nset-cookie: a=b\r\nx-debug: 1\r\netag: \"x\"\r\n\
             content-length: 9\r\ntransfer-encoding: chunked\r\nwww-authenticate: Basic\r\n\r\n",
            Answer(200, "ok"),
        ),
    ]);
    rows
}
