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
        // What connections and proxies may change.
        .filter(|(name, _)| !matches!(name.as_str(), "accept-encoding" | "content-length"))
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
