//! What an operator sees of a use that waits: exactly what would be done, on lines that no content can forge, beside what was approved
//! last. Asks nobody.

use std::time::Duration;

use claviger_core::approval::{ApprovalMode, Content, Question, Subject, escape_bytes};
use claviger_core::audit::Operation;
use claviger_core::name::escape;
use claviger_core::profile::SigningRule;
use similar::{Algorithm, ChangeTag, TextDiff};

/// Of content that is no text, so many bytes are shown.
const MAX_HEX: usize = 256;
/// Comparing two contents may take this long; then what differs is shown more coarsely.
const COMPARING: Duration = Duration::from_millis(500);

/// All of a question. Every line of it that holds something the agent chose begins with a mark of ours.
pub(crate) fn shown_whole(question: &Question) -> String {
    let mut out = format!(
        "approval {} of {}, until {:.0}\nagent     {} ({})\nmanifest  {}\ngrant     {}\nrequest   {}\n",
        question.id,
        covered(question.mode, question.subject.operation()),
        question.expires,
        question.agent,
        question.component,
        question.manifest,
        question.grant,
        question.request,
    );
    head(&question.subject, &mut out);
    let content = question.subject.content();
    let what = match &question.subject {
        Subject::Sign { .. } | Subject::Generate { .. } | Subject::Verify { .. } => "content",
        Subject::Send { .. } => "body   ",
        Subject::Seal { .. } => "text   ",
        Subject::Unseal { .. } => "box    ",
        Subject::Attest { .. } => "nonce  ",
    };
    out.push_str(&format!("{what}   {} bytes, {}\n", content.size, content.digest));
    if matches!(question.subject, Subject::Unseal { .. }) {
        out.push_str("what is in it is not known before it is opened\n");
        return out;
    }
    let last = question.last.as_deref().map(Subject::content);
    match (content.text(), last.map(|last| (last, last.text()))) {
        (Some(text), Some((last, Some(before)))) => {
            compared(before, text, last, &mut out);
            endings(content, text, &mut out);
        }
        (Some(text), _) => {
            for line in text.split_inclusive('\n') {
                marked("  | ", line, &mut out);
            }
            endings(content, text, &mut out);
        }
        (None, _) => hexadecimal(content, &mut out),
    }
    out
}

fn head(subject: &Subject, out: &mut String) {
    match subject {
        Subject::Sign { key, rule, .. } => {
            out.push_str(&format!("sign with {key}, {}\n", framed(rule)));
        }
        Subject::Send {
            method,
            url,
            headers,
            inject,
            ..
        } => {
            let line = |text: &str| shown_again(text);
            out.push_str(&format!("send      {} {}\n", line(method), line(url)));
            for (name, value) in headers {
                out.push_str(&format!("  > {}: {}\n", line(name), line(value)));
            }
            out.push_str(&format!("attached  {}\n", line(inject)));
        }
        Subject::Seal { key, context, .. } => {
            out.push_str(&format!("seal with {key}\n"));
            for_what(context, out);
        }
        Subject::Unseal { key, context, .. } => {
            match key {
                Some(key) => out.push_str(&format!("unseal with {key}, which the box names\n")),
                None => out.push_str(
                    "unseal a box that names no version of the key that opens any: it will not open\n",
                ),
            }
            for_what(context, out);
        }
        Subject::Generate { key, label, .. } => {
            out.push_str(&format!("make a tag with {key}, label `{label}`\n"));
        }
        Subject::Verify { key, label, tag, .. } => {
            match key {
                Some(key) => out.push_str(&format!(
                    "compare a tag with {key}, which it names, label `{label}`\n"
                )),
                None => out.push_str(&format!(
                    "compare a tag that names no version of the key that verifies any, label `{label}`: it will not match\n"
                )),
            }
            out.push_str(&format!("tag       {tag}\n"));
        }
        Subject::Attest {
            key, audience, ttl, ..
        } => {
            let audience = shown_again(audience.as_str());
            out.push_str(&format!("attest with {key}, to `{audience}`, for {ttl} s\n"));
        }
    }
}

/// The context of a box: all of it, on one line.
fn for_what(context: &Content, out: &mut String) {
    out.push_str(&format!(
        "context   {} bytes\n  > {}\n",
        context.size,
        escape_bytes(&context.start)
    ));
}

/// What an approval covers.
fn covered(mode: ApprovalMode, right: Option<Operation>) -> &'static str {
    match (mode, right) {
        (ApprovalMode::Each, _) => "one use",
        (ApprovalMode::FirstUse, None) => "the first and every later use",
        (ApprovalMode::FirstUse, Some(Operation::Seal)) => "the first and every later sealing",
        (ApprovalMode::FirstUse, Some(Operation::Unseal)) => "the first and every later unsealing",
        (ApprovalMode::FirstUse, Some(Operation::Generate)) => "the first and every later tag",
        (ApprovalMode::FirstUse, Some(Operation::Verify)) => "the first and every later comparison",
    }
}

/// Text that was escaped before, and came over a socket since.
fn shown_again(text: &str) -> String {
    crate::output::shown(text).replace('\n', "\\u{a}")
}

fn framed(rule: &SigningRule) -> String {
    match rule {
        SigningRule::Sshsig { namespace } => format!("sshsig, namespace `{namespace}`"),
        SigningRule::Jws {
            issuer,
            typ,
            audience,
            subject,
            ttl,
        } => {
            let subject = subject
                .as_ref()
                .map_or_else(String::new, |subject| format!(", subject `{subject}`"));
            format!("jws {typ}, issuer `{issuer}`, audience `{audience}`{subject}, for {ttl} s")
        }
        SigningRule::Labeled { label } => format!("labeled, label `{label}`"),
        SigningRule::Git(_) => terms("git", rule),
        SigningRule::SshAuth(_) => terms("ssh-auth", rule),
    }
}

/// Terms that are lists of names, as the log and the socket have them.
fn terms(kind: &str, rule: &SigningRule) -> String {
    let json = serde_json::to_string(rule).unwrap_or_default();
    format!("{kind}, {}", escape(&json, usize::MAX))
}

/// One line of content behind a mark, without its end.
fn marked(mark: &str, line: &str, out: &mut String) {
    out.push_str(mark);
    out.push_str(&escape(line.strip_suffix('\n').unwrap_or(line), usize::MAX));
    out.push('\n');
}

fn endings(content: &Content, text: &str, out: &mut String) {
    if content.left_out() > 0 {
        out.push_str(&format!(
            "… and {} bytes more, which are not shown\n",
            content.left_out()
        ));
    } else if !text.is_empty() && !text.ends_with('\n') {
        out.push_str("(without a line end at its end)\n");
    }
}

fn compared(before: &str, text: &str, last: &Content, out: &mut String) {
    if before == text && last.left_out() == 0 {
        out.push_str("the content is the same as that of what was approved last; what is above may differ\n");
    } else {
        out.push_str("against what was approved last under this grant:\n");
    }
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .timeout(COMPARING)
        .diff_lines(before, text);
    for change in diff.iter_all_changes() {
        let mark = match change.tag() {
            ChangeTag::Equal => "    | ",
            ChangeTag::Delete => "  - | ",
            ChangeTag::Insert => "  + | ",
        };
        marked(mark, change.value(), out);
    }
}

fn hexadecimal(content: &Content, out: &mut String) {
    let start = content.start.get(..MAX_HEX).unwrap_or(&content.start);
    for (row, bytes) in start.chunks(16).enumerate() {
        let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain: String = bytes
            .iter()
            .map(|byte| {
                if (0x20..0x7f).contains(byte) {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        out.push_str(&format!(
            "  {:04x}  {:<47}  {plain}\n",
            row * 16,
            digits.join(" ")
        ));
    }
    let shown = u64::try_from(start.len()).unwrap_or(u64::MAX);
    if content.size > shown {
        out.push_str(&format!(
            "… and {} bytes more, which are not shown\n",
            content.size - shown
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use claviger_core::approval::{ApprovalId, ApprovalMode};
    use claviger_core::{ComponentDigest, ContentDigest, InstanceId, ManifestDigest};
    use expect_test::expect;

    use super::*;

    fn question(content: &[u8], last: Option<&[u8]>) -> Question {
        let subject = |content: &[u8]| Subject::Sign {
            key: claviger_core::KeyRef {
                name: "release".parse().unwrap(),
                version: claviger_core::KeyVersion(2),
            },
            rule: SigningRule::Sshsig {
                namespace: "file".parse().unwrap(),
            },
            content: Content::of(content),
        };
        let (agent, grant) = ("bot".parse().unwrap(), "sign-release".parse().unwrap());
        let (component, manifest) = (ComponentDigest::of(b"c"), ManifestDigest::of(b"m"));
        Question {
            id: ApprovalId::new([1; 8]),
            instance: InstanceId(1),
            request: subject(content).request(&agent, &component, &manifest, &grant),
            agent,
            component,
            manifest,
            grant,
            mode: ApprovalMode::Each,
            asked: "2026-06-01T12:00:00Z".parse().unwrap(),
            expires: "2026-06-01T12:05:00Z".parse().unwrap(),
            subject: subject(content),
            last: last.map(|last| Arc::new(subject(last))),
        }
    }

    /// What is shown below the digests.
    fn below(question: &Question) -> String {
        let whole = shown_whole(question);
        let lines = whole.lines().skip_while(|line| !line.starts_with("content"));
        lines.skip(1).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_question_says_who_under_what_and_exactly_what() {
        let whole = shown_whole(&question(b"v1.2.3\n", None));
        let expected = expect![[r#"
            approval 0101010101010101 of one use, until 2026-06-01T12:05:00Z
            agent     bot (sha256:2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6)
            manifest  sha256:62c66a7a5dd70c3146618063c344e531e6d4b59e379808443ce962b3abd63c5a
            grant     sign-release
            request   DIGEST
            sign with release@v2, sshsig, namespace `file`
            content   7 bytes, sha256:1ac5ae3b9bbcfa6ce6bc9e26bcb9ef0e2b1a4b8a2d3c8d1fd0e9a1a1a1a1a1a1
              | v1.2.3
        "#]];
        let of = question(b"v1.2.3\n", None);
        let whole = whole.replace(&of.request.to_string(), "DIGEST").replace(
            &ContentDigest::of(b"v1.2.3\n").to_string(),
            "sha256:1ac5ae3b9bbcfa6ce6bc9e26bcb9ef0e2b1a4b8a2d3c8d1fd0e9a1a1a1a1a1a1",
        );
        expected.assert_eq(&whole);
    }

    #[test]
    fn no_content_forges_a_line_or_moves_the_cursor() {
        let hostile = "x\r\u{1b}[2J\u{202e}\napproval 0 is approved\n  + | forged\n\u{2028}end";
        let shown = below(&question(hostile.as_bytes(), None));
        expect![[r"
              | x\u{d}\u{1b}[2J\u{202e}
              | approval 0 is approved
              |   + | forged
              | \u{2028}end
            (without a line end at its end)"]]
        .assert_eq(&shown);
    }

    #[test]
    fn what_has_no_content_to_sign_is_shown_as_exactly() {
        let key = || claviger_core::KeyRef {
            name: "state".parse().unwrap(),
            version: claviger_core::KeyVersion(3),
        };
        let shown = |mode, subject| {
            let whole = shown_whole(&Question {
                mode,
                subject,
                ..question(b"", None)
            });
            let first = whole.lines().take(1);
            let rest = whole
                .lines()
                .skip_while(|line| !line.starts_with("request"))
                .skip(1);
            first.chain(rest).map(cut_digest).collect::<Vec<_>>().join("\n")
        };
        let context = || Content::of(b"pin of\nalice\x1b");
        let seal = Subject::Seal {
            key: key(),
            context: context(),
            plaintext: Content::of(b"12\x1b\n34"),
            salt: claviger_core::approval::Salt::new([0; 16]),
        };
        expect![[r"
            approval 0101010101010101 of one use, until 2026-06-01T12:05:00Z
            seal with state@v3
            context   13 bytes
              > pin of\u{a}alice\u{1b}
            text      6 bytes, DIGEST
              | 12\u{1b}
              | 34
            (without a line end at its end)"]]
        .assert_eq(&shown(ApprovalMode::Each, seal));
        let unseal = |key| Subject::Unseal {
            key,
            context: context(),
            sealed: Content::unread(&[0xb1; 64]),
        };
        expect![[r"
            approval 0101010101010101 of the first and every later unsealing, until 2026-06-01T12:05:00Z
            unseal with state@v3, which the box names
            context   13 bytes
              > pin of\u{a}alice\u{1b}
            box       64 bytes, DIGEST
            what is in it is not known before it is opened"]]
        .assert_eq(&shown(ApprovalMode::FirstUse, unseal(Some(key()))));
        assert!(shown(ApprovalMode::Each, unseal(None)).contains("it will not open"));
        let verify = Subject::Verify {
            key: Some(key()),
            label: "acme/hook".parse().unwrap(),
            content: Content::of(b"x\n"),
            tag: ContentDigest::of(b"tag"),
        };
        expect![[r"
            approval 0101010101010101 of the first and every later comparison, until 2026-06-01T12:05:00Z
            compare a tag with state@v3, which it names, label `acme/hook`
            tag       DIGEST
            content   2 bytes, DIGEST
              | x"]]
        .assert_eq(&shown(ApprovalMode::FirstUse, verify));
        let attest = Subject::Attest {
            key: key(),
            audience: "https://verifier.test".parse().unwrap(),
            ttl: 60,
            nonce: Content::of(&[0xff; 17]),
        };
        expect![[r"
            approval 0101010101010101 of one use, until 2026-06-01T12:05:00Z
            attest with state@v3, to `https://verifier.test`, for 60 s
            nonce     17 bytes, DIGEST
              0000  ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff  ................
              0010  ff                                               ."]]
        .assert_eq(&shown(ApprovalMode::Each, attest));
    }

    fn cut_digest(line: &str) -> String {
        line.find("sha256:")
            .map_or_else(|| line.to_owned(), |at| format!("{}DIGEST", &line[..at]))
    }

    #[test]
    fn what_changed_is_shown_against_what_was_approved_last() {
        let shown = below(&question(b"a\nB\nc\n", Some(b"a\nb\nc\n")));
        expect![[r"
            against what was approved last under this grant:
                | a
              - | b
              + | B
                | c"]]
        .assert_eq(&shown);
        let same = below(&question(b"a\n", Some(b"a\n")));
        assert!(
            same.starts_with("the content is the same as that of what was approved last"),
            "{same}"
        );
    }

    #[test]
    fn bytes_are_shown_as_such_and_bounded() {
        let mut bytes = b"\x7fELF\0".to_vec();
        bytes.extend([0xff; 600]);
        let shown = below(&question(&bytes, Some(b"text before\n")));
        assert!(shown.starts_with("  0000  7f 45 4c 46 00 ff"), "{shown}");
        assert_eq!(shown.lines().count(), 17, "{shown}");
        assert!(
            shown.ends_with("… and 349 bytes more, which are not shown"),
            "{shown}"
        );
        let long = "line\n".repeat(20_000);
        let shown = below(&question(long.as_bytes(), Some(b"text before\n")));
        assert!(shown.ends_with("bytes more, which are not shown"), "{shown}");
        assert!(shown.len() < 100_000);
    }
}
