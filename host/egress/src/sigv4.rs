//! AWS Signature Version 4 over one request, by the library of its owner. Chooses nothing that is signed: all of the request is.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode,
};
use aws_sigv4::sign::v4;
use claviger_core::Secret;
use claviger_core::http::{AwsSigV4, Method};
use http::HeaderMap;

/// The fields that a signature adds: `authorization`, `x-amz-date`, `x-amz-content-sha256`. Every field that is already there and
/// that nobody changes on the way is signed, and the payload always. None if the secret is no text, the time is none, or a
/// field already holds a credential: the library logs what it signs at the level of traces.
pub(crate) fn sign(
    method: Method,
    url: &[u8],
    fields: &HeaderMap,
    body: &[u8],
    scope: &AwsSigV4,
    secret: &Secret,
    time: i64,
) -> Option<Vec<(&'static str, String)>> {
    // Wiped by the library on drop.
    let key = std::str::from_utf8(secret.expose()).ok()?;
    let identity = Credentials::new(scope.access_key_id.as_str(), key, None, None, "claviger").into();
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    if scope.service == "s3" {
        // S3 takes paths as they are.
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time).ok()?))?;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&scope.region)
        .name(&scope.service)
        .time(time)
        .settings(settings)
        .build()
        .ok()?
        .into();
    if fields.values().any(http::HeaderValue::is_sensitive) {
        return None;
    }
    let signed = fields
        .iter()
        // What a proxy in front of the server may change.
        .filter(|(name, _)| **name != http::header::ACCEPT_ENCODING)
        .map(|(name, value)| value.to_str().map(|value| (name.as_str(), value)))
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    let request = SignableRequest::new(
        method.as_str(),
        std::str::from_utf8(url).ok()?,
        signed.into_iter(),
        SignableBody::Bytes(body),
    )
    .ok()?;
    let (instructions, _) = aws_sigv4::http_request::sign(request, &params).ok()?.into_parts();
    let (headers, _) = instructions.into_parts();
    Some(
        headers
            .into_iter()
            .map(|header| (header.name(), header.value().to_owned()))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> AwsSigV4 {
        AwsSigV4 {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret: "aws".parse().unwrap(),
            region: "us-east-1".to_owned(),
            service: "service".to_owned(),
        }
    }

    /// Signs as the suite of AWS does: 2015-08-30T12:36:00Z, `example.amazonaws.com`.
    fn authorization(content_type: Option<&'static str>, body: &str) -> String {
        let secret = Secret::take(&mut b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec()).unwrap();
        let mut fields = HeaderMap::new();
        fields.insert("host", http::HeaderValue::from_static("example.amazonaws.com"));
        fields.insert("accept-encoding", http::HeaderValue::from_static("identity"));
        if let Some(kind) = content_type {
            fields.insert("content-type", http::HeaderValue::from_static(kind));
            fields.insert("content-length", body.len().into());
        }
        let url = b"https://example.amazonaws.com/";
        let (method, time) = (Method::Post, 1_440_938_160);
        let signed = sign(method, url, &fields, body.as_bytes(), &scope(), &secret, time).unwrap();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["x-amz-date", "authorization", "x-amz-content-sha256"]);
        signed[1].1.clone()
    }

    #[test]
    fn the_vectors_of_aws_with_a_signed_payload_come_out() {
        // aws-signing-test-suite v4: post-x-www-form-urlencoded, and the same with a parameter in the type.
        let kind = "application/x-www-form-urlencoded";
        assert_eq!(
            authorization(Some(kind), "Param1=value1"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-length;content-type;host;x-amz-content-sha256;x-amz-date, \
             Signature=d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"
        );
    }

    #[test]
    fn each_byte_of_the_payload_and_each_field_changes_the_signature() {
        let plain = authorization(None, "");
        assert!(
            plain.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"),
            "{plain}"
        );
        let kind = Some("text/plain");
        let all = [
            plain,
            authorization(None, "a"),
            authorization(kind, ""),
            authorization(kind, "a"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
    }

    #[test]
    fn nothing_is_signed_beside_another_credential_or_at_no_time() {
        let secret = Secret::take(&mut b"secret half".to_vec()).unwrap();
        let mut fields = HeaderMap::new();
        let sign = |fields: &HeaderMap, time| {
            sign(Method::Get, b"https://h/", fields, b"", &scope(), &secret, time).is_some()
        };
        assert!(sign(&fields, 0));
        assert!(!sign(&fields, -1));
        let mut value = http::HeaderValue::from_static("x");
        value.set_sensitive(true);
        fields.insert("x-api-key", value);
        assert!(!sign(&fields, 0));
    }
}
