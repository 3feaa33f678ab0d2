//! AWS Signature Version 4: the cases of the suite that comes with the library `aws-sigv4`, as requests that our client would write, shown to
//! the suite and to botocore. The suite is read where cargo keeps the library; nothing of it is here.
//!
//! The suite says whether a case signs its payload as a field of its own. We always do: a case that does not has its expected canonical
//! request changed by that field alone, and botocore must come to the same text and signature.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use claviger_core::egress::{Destination, Lane, Outgoing, Plan, Slot};
use claviger_core::http::{
    AwsSigV4, HeaderName, HttpGrant, Method, Origin, PathEncoding, Target, checked_headers,
};
use claviger_core::{ComponentDigest, Secret};
use jiff::Timestamp;
use kit::judge::{judge, root};
use kit::vault::named;
use serde_json::{Value, json};

const KEY_ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Where cargo keeps the suite of the locked version.
fn suite() -> PathBuf {
    let output = Command::new(xtask::step::cargo())
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = value["packages"].as_array().unwrap();
    let mut found = packages.iter().filter(|package| package["name"] == "aws-sigv4");
    let manifest = found.next().unwrap()["manifest_path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(found.next().is_none(), "one version");
    Path::new(&manifest).with_file_name("aws-signing-test-suite/v4")
}

/// One case of the suite.
struct Case {
    name: String,
    method: Method,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: String,
    time: Timestamp,
    region: String,
    service: String,
    // What goes with temporary credentials, where it is signed, too.
    session: bool,
    // Whether the payload's digest is a field of the expected request.
    signs_body: bool,
    canonical: String,
    signature: Option<String>,
}

impl Case {
    fn read(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let file = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let request = file("request.txt").unwrap();
        let (head, body) = request.split_once("\n\n").unwrap_or((request.trim_end(), ""));
        let (line, fields) = head.split_once('\n').unwrap();
        let (method, target) = line.strip_suffix(" HTTP/1.1").unwrap().split_once(' ').unwrap();
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for field in fields.lines() {
            match field.split_once(':') {
                Some((name, value)) if !field.starts_with(' ') => {
                    headers.push((name.to_owned(), value.trim().as_bytes().to_vec()));
                }
                // A folded line.
                _ => headers
                    .last_mut()
                    .unwrap()
                    .1
                    .extend_from_slice(format!("\n{field}").as_bytes()),
            }
        }
        // Two old cases have no settings.
        let context: Option<Value> = file("context.json").map(|text| serde_json::from_str(&text).unwrap());
        let text = |key: &str, default: &str| {
            let value = context.as_ref().and_then(|context| context[key].as_str());
            value.unwrap_or(default).to_owned()
        };
        let flag = |key: &str| context.as_ref().is_some_and(|context| context[key] == true);
        if let Some(context) = &context {
            assert_eq!(context["credentials"]["access_key_id"], KEY_ID);
            assert_eq!(context["credentials"]["secret_access_key"], SECRET);
        }
        let token = context
            .as_ref()
            .is_some_and(|context| context["credentials"]["token"].is_string());
        let canonical = file("header-canonical-request.txt")
            .unwrap()
            .trim_end()
            .to_owned();
        let stamp = canonical
            .lines()
            .find_map(|line| line.strip_prefix("x-amz-date:"))
            .unwrap();
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", stamp).unwrap();
        Self {
            method: method.parse().unwrap(),
            target: target.to_owned(),
            body: body.to_owned(),
            time: time.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp(),
            region: text("region", "us-east-1"),
            service: text("service", "service"),
            session: token && !flag("omit_session_token"),
            signs_body: flag("sign_body"),
            canonical,
            signature: file("header-signature.txt").map(|text| text.trim().to_owned()),
            headers,
            name,
        }
    }

    fn header(&self, name: &str) -> String {
        let (_, value) = self
            .headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .unwrap();
        String::from_utf8(value.clone()).unwrap()
    }

    /// The request as it is written for this service, for the judge; or which of our rules it breaks.
    fn write(&self, service: &str) -> Result<Value, &'static str> {
        if self.session {
            return Err("session token");
        }
        let authority = self.header("host");
        let origin: Origin = named(&format!("https://{authority}"));
        let target =
            Target::parse(&format!("{origin}{}", self.target), PathEncoding::Allowed).map_err(|_| "url")?;
        // The host writes these.
        let ours = ["host", "content-length", "x-amz-date"];
        let given: Vec<(String, Vec<u8>)> = self
            .headers
            .iter()
            .filter(|(name, _)| !ours.contains(&name.to_lowercase().as_str()))
            .cloned()
            .collect();
        let listed: Vec<HeaderName> = given
            .iter()
            .map(|(name, _)| named(&name.to_lowercase()))
            .collect();
        let headers = checked_headers(&given, &listed, &[], &authority).map_err(|_| "fields")?;
        let grant = HttpGrant::new(origin, Vec::new());
        let destination = Destination {
            origin: grant.origin,
            trust: grant.trust,
            private_networks: Vec::new(),
            answer: grant.answer,
            timeout: Duration::from_secs(60),
            lane: Lane {
                component: ComponentDigest::of(b"component"),
                grant: "bot/api".to_owned(),
                credential: "aws@v1".to_owned(),
            },
            identity: None,
        };
        let plan = Plan {
            destination: Arc::new(destination),
            method: self.method,
            target,
            headers,
            slots: vec![Slot::AwsSigV4 {
                scope: AwsSigV4 {
                    access_key_id: KEY_ID.to_owned(),
                    secret: named("aws"),
                    region: self.region.clone(),
                    service: service.to_owned(),
                },
                secret: Arc::new(Secret::take(&mut SECRET.as_bytes().to_vec()).unwrap()),
                time: self.time.as_second(),
            }],
            body: Outgoing::Whole(self.body.clone().into_bytes().into()),
            watched: Vec::new(),
        };
        let written = claviger_egress::written(plan).expect("what the rules accept is written");
        let fields: Vec<(&str, &str)> = written
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        Ok(json!({
            "kind": "aws-sigv4", "method": written.method().as_str(), "authority": authority,
            "target": written.uri().to_string(), "headers": fields, "body": self.body,
            "key_id": KEY_ID, "secret": SECRET, "region": self.region, "service": service,
        }))
    }

    /// What the suite expects, with the fields that we always sign.
    fn expected(&self, written: &Value) -> String {
        let lines: Vec<&str> = self.canonical.split('\n').collect();
        let [method, path, query, fields @ .., empty, _, digest] = lines.as_slice() else {
            panic!("{}", self.canonical);
        };
        assert_eq!(*empty, "");
        let mut fields: Vec<String> = fields.iter().map(|line| (*line).to_owned()).collect();
        if !self.signs_body {
            fields.push(format!("x-amz-content-sha256:{digest}"));
            if let Some(length) = field(written, "content-length") {
                fields.push(format!("content-length:{length}"));
            }
        }
        fields.sort();
        let names: Vec<&str> = fields.iter().filter_map(|line| line.split(':').next()).collect();
        let (names, fields) = (names.join(";"), fields.join("\n"));
        format!("{method}\n{path}\n{query}\n{fields}\n\n{names}\n{digest}")
    }
}

fn field<'a>(written: &'a Value, name: &str) -> Option<&'a str> {
    let fields = written["headers"].as_array().unwrap();
    fields
        .iter()
        .find(|field| field[0] == name)
        .and_then(|field| field[1].as_str())
}

fn cases() -> Vec<Case> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(suite())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    folders.iter().map(|folder| Case::read(folder)).collect()
}

/// The cases that are no requests of ours, each with the rule that says so.
const REFUSED: &[(&str, &str)] = &[
    ("get-header-key-duplicate", "fields"),
    ("get-header-value-multiline", "fields"),
    ("get-header-value-order", "fields"),
    ("get-relative-normalized", "url"),
    ("get-relative-relative-normalized", "url"),
    ("get-relative-relative-unnormalized", "url"),
    ("get-relative-unnormalized", "url"),
    ("get-slash-dot-slash-normalized", "url"),
    ("get-slash-dot-slash-unnormalized", "url"),
    ("get-slash-normalized", "url"),
    ("get-slash-pointless-dot-normalized", "url"),
    ("get-slash-pointless-dot-unnormalized", "url"),
    ("get-slash-unnormalized", "url"),
    ("get-slashes-normalized", "url"),
    ("get-slashes-unnormalized", "url"),
    ("get-space-unnormalized", "url"),
    ("get-utf8", "url"),
    ("get-vanilla-utf8-query", "url"),
    ("get-vanilla-with-session-token", "session token"),
    ("post-sts-header-before", "session token"),
];

#[test]
fn the_suite_of_aws_and_botocore_come_to_our_signatures() {
    let cases = cases();
    assert_eq!(cases.len(), 40);
    let (mut refused, mut written, mut exact) = (Vec::new(), Vec::new(), 0);
    for case in &cases {
        match case.write(&case.service) {
            Err(why) => refused.push((case.name.as_str(), why)),
            Ok(request) => {
                if case.signs_body {
                    // The suite's settings are ours: its signature, to the letter.
                    let authorization = field(&request, "authorization").unwrap();
                    let signature = authorization.rsplit_once("Signature=").unwrap().1;
                    assert_eq!(Some(signature), case.signature.as_deref(), "{}", case.name);
                    exact += 1;
                }
                written.push((case, request));
            }
        }
    }
    assert_eq!(refused, REFUSED);
    assert_eq!((written.len(), exact), (20, 2));
    let requests: Vec<Value> = written.iter().map(|(_, request)| request.clone()).collect();
    let mut compared = 0;
    for ((case, request), verdict) in written.iter().zip(judge(&requests)) {
        assert!(verdict.accepted, "{}: {}", case.name, verdict.why);
        let canonical = &verdict.claims.unwrap()["canonical"];
        // The suite has this path encoded once, as S3 alone takes it.
        if case.name != "get-space-normalized" {
            assert_eq!(*canonical, case.expected(request), "{}", case.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 19);
}

#[test]
fn botocore_comes_to_our_signatures_for_s3_which_takes_paths_as_they_are() {
    let cases = cases();
    let written: Vec<(&Case, Value)> = cases
        .iter()
        .filter_map(|case| Some((case, case.write("s3").ok()?)))
        .collect();
    assert_eq!(written.len(), 20);
    let requests: Vec<Value> = written.iter().map(|(_, request)| request.clone()).collect();
    for ((case, request), verdict) in written.iter().zip(judge(&requests)) {
        assert!(verdict.accepted, "{}: {}", case.name, verdict.why);
        if case.name == "get-space-normalized" {
            assert_eq!(verdict.claims.unwrap()["canonical"], case.expected(request));
        }
    }
}

#[test]
fn botocore_comes_to_another_signature_for_whatever_is_changed() {
    let cases = cases();
    let form = cases
        .iter()
        .find(|case| case.name == "post-x-www-form-urlencoded")
        .unwrap();
    let good = form.write(&form.service).unwrap();
    let changed = |pointer: &str, value: &str| {
        let mut case = good.clone();
        let place = case.pointer_mut(pointer).unwrap();
        assert_ne!(*place, value, "a change changes something");
        *place = value.into();
        case
    };
    let header = |name: &str, value: &str| {
        let fields = good["headers"].as_array().unwrap();
        let at = fields.iter().position(|field| field[0] == name).unwrap();
        changed(&format!("/headers/{at}/1"), value)
    };
    let authorization = field(&good, "authorization").unwrap();
    let requests = [
        good.clone(),
        changed("/method", "PUT"),
        changed("/target", "/?a=1"),
        changed("/target", "/a"),
        changed("/body", "Param1=value2"),
        changed("/secret", "another"),
        changed("/region", "eu-west-1"),
        changed("/service", "s3"),
        header("host", "evil.amazonaws.com"),
        header("content-type", "text/plain"),
        header("x-amz-date", "20150830T123601Z"),
        header("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        header("authorization", &authorization.replace("content-type;", "")),
    ];
    let verdicts = judge(&requests);
    assert!(verdicts[0].accepted, "{}", verdicts[0].why);
    for (verdict, request) in verdicts.iter().zip(&requests).skip(1) {
        assert!(!verdict.accepted, "{request}");
    }
}
