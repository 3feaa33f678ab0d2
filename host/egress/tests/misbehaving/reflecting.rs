//! Rows of servers that send the credential back: every spelling at every place.

use claviger_core::egress::Fault;

use super::{Expect, Row, SECRET, Step, echo, row};

/// Where a server may put what it echoes; `@` stands for the secret.
const PLACES: [(&str, &str); 14] = [
    (
        "body",
        "HTTP/1.1 200 OK\r\ncontent-length: #\r\n\r\n{\"headers\": {\"authorization\": \"Bearer @\"}}",
    ),
    ("body to the end", "HTTP/1.1 200 OK\r\n\r\nyou sent Bearer @"),
    (
        "error page",
        "HTTP/1.1 500 Oops\r\ncontent-type: text/html\r\ncontent-length: #\r\n\r\n<pre>@</pre>",
    ),
    ("first bytes", "HTTP/1.1 200 OK\r\ncontent-length: #\r\n\r\n@"),
    (
        "multipart",
        "HTTP/1.1 206 OK\r\ncontent-type: multipart/mixed; boundary=b\r\ncontent-length: #\r\n\r\n--b\r\n\r\n@\r\n--b--",
    ),
    (
        "location",
        "HTTP/1.1 302 Found\r\nlocation: https://evil.test/?token=@\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "etag",
        "HTTP/1.1 200 OK\r\netag: \"@\"\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "a field that is dropped",
        "HTTP/1.1 200 OK\r\nx-debug: @\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "set-cookie",
        "HTTP/1.1 200 OK\r\nset-cookie: session=@; Secure\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "www-authenticate",
        "HTTP/1.1 401 No\r\nwww-authenticate: Bearer error=\"@\"\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "content-encoding",
        "HTTP/1.1 200 OK\r\ncontent-encoding: @\r\ncontent-length: 0\r\n\r\n",
    ),
    ("reason", "HTTP/1.1 200 Hello @\r\ncontent-length: 0\r\n\r\n"),
    (
        "early hints",
        "HTTP/1.1 103 Early\r\nlink: <@>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "trailer",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: @\r\n\r\n",
    ),
];

fn filled(template: &str, secret: &str) -> String {
    let text = template.replace('@', secret);
    let length = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
    text.replacen('#', &length.to_string(), 1)
}

pub(super) fn all() -> Vec<Row> {
    let withheld = Expect::Fault(Fault::Reflected);
    let mut rows = Vec::new();
    for (spelling, secret) in echo::spellings(SECRET) {
        for (place, template) in PLACES {
            let name = format!("{spelling} in {place}");
            rows.push(row(name.clone(), filled(template, &secret), withheld.clone()));
        }
        // A record for each byte.
        let (_, template) = PLACES[0];
        rows.push(Row {
            name: format!("{spelling}, trickled"),
            steps: vec![
                Step::Read,
                Step::Trickle(filled(template, &secret).into_bytes()),
                Step::Close,
            ],
            expect: withheld.clone(),
        });
        // A chunk for each byte, and for every seven.
        for size in [1, 7] {
            let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
            for piece in format!("xx{secret}xx").as_bytes().chunks(size) {
                answer.push_str(&format!(
                    "{:x}\r\n{}\r\n",
                    piece.len(),
                    String::from_utf8_lossy(piece)
                ));
            }
            rows.push(row(
                format!("{spelling} in chunks of {size}"),
                answer + "0\r\n\r\n",
                withheld.clone(),
            ));
        }
    }
    rows
}
