//! Every field that a manifest can have, with what it holds and an example. Not the parsing: `parse` asks here what is allowed,
//! and the published JSON Schema is tested against it.

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds, as the end of "expected …".
    pub expected: &'static str,
    /// A value, in TOML.
    pub example: &'static str,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $list:ident = { $($field:ident: $name:literal, $expected:literal, $example:literal;)* })*) => {
        $(
            $(pub(super) const $field: Field = Field { name: $name, expected: $expected, example: $example };)*
            $(#[$doc])*
            pub const $list: &[Field] = &[$($field),*];
        )*
    };
}

fields! {
    /// At the top.
    TOP = {
        SCHEMA: "schema", "the number 1", "1";
        AGENT_TABLE: "agent", "a table", "{ name = \"release-bot\", component = \"release_bot.wasm\" }";
        LIMITS_TABLE: "limits", "a table", "{ memory = \"64 MiB\" }";
        ENV_TABLE: "env", "a table of strings", "{ LANG = \"C.UTF-8\" }";
        FILES_TABLE: "files", "a table of folders", "{ \"/work\" = { host = \"dist\", access = \"read\" } }";
        ROTATES_TABLE: "rotates", "a table that names a secret and two grants",
            "{ secret = \"api-token\", issue = \"issue\", probe = \"probe\", value = \"/token\" }";
        GRANTS_TABLE: "grants", "a table of grants", "{ sign-release = { sign = { key = \"release\" } } }";
    }
    /// In `[agent]`.
    AGENT = {
        NAME: "name", "the agent's name, 1 to 64 characters of a-z, 0-9 and -", "\"release-bot\"";
        COMPONENT: "component", "the path of a component, relative to the manifest's folder", "\"release_bot.wasm\"";
        DIGEST: "digest", "the digest that `claviger pin` wrote",
            "\"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"";
        ARGS: "args", "a list of strings", "[\"--verbose\"]";
        ACKNOWLEDGED: "acknowledged", "a list of what was thought over", "[\"lethal-mix\"]";
    }
    /// In `[limits]`.
    LIMITS = {
        MEMORY: "memory", "a quantity of bytes", "\"64 MiB\"";
        DEADLINE: "deadline", "a duration", "\"60 s\"";
        CPU: "cpu", "a duration", "\"10 s\"";
        OUTPUT: "output", "a quantity of bytes", "\"1 MiB\"";
    }
    /// In each folder of `[files]`.
    FOLDER = {
        HOST: "host", "the path of a folder, relative to the manifest's folder", "\"dist\"";
        ACCESS: "access", "`read` or `read-write`", "\"read\"";
    }
    /// In `[rotates]`.
    ROTATES = {
        ROTATED: "secret", "the name of a secret", "\"api-token\"";
        ISSUE: "issue", "the alias of a grant of `http`", "\"issue\"";
        PROBE: "probe", "the alias of a grant of `http`", "\"probe\"";
        VALUE_AT: "value", "a JSON pointer", "\"/token\"";
        ID_AT: "id", "a JSON pointer", "\"/id\"";
        LIFETIME_AT: "lifetime", "a JSON pointer", "\"/expires_in\"";
    }
    /// In each `[grants.…]`.
    GRANT = {
        SIGN_TABLE: "sign", "a table that names a key", "{ key = \"release\", namespace = \"file\" }";
        HTTP_TABLE: "http", "a table that names an origin",
            "{ origin = \"https://api.github.com\", allow = [\"GET /repos/acme/*\"] }";
        INJECT_TABLE: "inject", "a table that names a credential", "{ bearer = \"github-token\" }";
        SEAL_TABLE: "seal", "a table that names a key and rights", "{ key = \"state\", allow = [\"seal\", \"unseal\"] }";
        MAC_TABLE: "mac", "a table that names a key and rights", "{ key = \"hook\", allow = [\"verify\"] }";
        ATTEST_TABLE: "attest", "a table that names a key and audiences",
            "{ key = \"evidence\", audiences = [\"https://verifier.example\"] }";
        USES: "uses", "a whole number of at least 1", "500";
        RATE: "rate", "a rate", "\"30/hour\"";
        HOURS: "hours", "a window of the week, or a list of 1 to 16", "\"Mon-Fri 08:00-18:00 Europe/Zurich\"";
        EXPIRES: "expires", "a date and time with its offset, without quotes", "2027-01-01T00:00:00Z";
        ON_VIOLATION: "on-violation", "`deny` or `suspend`", "\"suspend\"";
        APPROVAL: "approval", "`each` or `first-use`", "\"each\"";
        APPROVAL_TIMEOUT: "approval-timeout", "a duration", "\"30 s\"";
    }
    /// In each `sign`.
    SIGN = {
        KEY: "key", "the name of a key, 1 to 64 characters of a-z, 0-9 and -", "\"release\"";
        NAMESPACE: "namespace", "a namespace of the key's `sshsig` profile", "\"file\"";
        AUDIENCE: "audience", "an audience of the key's `jws` profile", "\"https://api.example.com\"";
        SUBJECT: "subject", "the `sub` of every token", "\"release-bot\"";
        TTL: "ttl", "the life of a token", "\"10 min\"";
        LABEL: "label", "the label of the key's `labeled` profile", "\"acme/build\"";
        OBJECT: "object", "`commit` or `tag`", "\"tag\"";
        MAIL: "mail", "a mail address, in which `*` stands for any characters but `@`", "\"bot@acme.example\"";
        TAG: "tag", "the name of a tag, in which `*` stands for any characters", "\"v*\"";
        LOGIN_USER: "user", "a user of the key's `ssh-auth` profile", "\"deploy\"";
        HOST_KEYS: "host-keys", "a list of fingerprints of servers' host keys",
            "[\"SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU\"]";
    }
    /// In each `attest`.
    ATTEST = {
        ATTEST_KEY: "key", "the name of a key with profile `attest`", "\"evidence\"";
        AUDIENCES: "audiences", "a list of those who may be shown evidence", "[\"https://verifier.example\"]";
        EVIDENCE_TTL: "ttl", "the life of evidence", "\"60 s\"";
    }
    /// In each `seal`.
    SEAL = {
        SEAL_KEY: "key", "the name of a key, 1 to 64 characters of a-z, 0-9 and -", "\"state\"";
        SEAL_ALLOW: "allow", "a list with `seal`, `unseal` or both", "[\"seal\", \"unseal\"]";
        SEAL_BYTES: "bytes", "a quantity of bytes", "\"10 MiB\"";
    }
    /// In each `mac`.
    MAC = {
        MAC_KEY: "key", "the name of a key, 1 to 64 characters of a-z, 0-9 and -", "\"hook\"";
        MAC_LABEL: "label", "the label of the key's `mac` profile", "\"acme/webhook\"";
        MAC_ALLOW: "allow", "a list with `generate`, `verify` or both", "[\"verify\"]";
    }
    /// In each `http`.
    HTTP = {
        ORIGIN: "origin", "`https://`, a host name and, if it is not 443, a port", "\"https://api.github.com\"";
        ALLOW: "allow", "a list of 1 to 64 routes", "[\"GET /repos/acme/*\", \"POST /repos/acme/site/releases\"]";
        PATHS: "paths", "`plain` or `encoded`", "\"encoded\"";
        QUERY_KEYS: "query", "a list of keys, or a table of keys with their values", "[\"page\", \"per_page\"]";
        HEADERS: "headers", "a list of names of header fields", "[\"x-request-id\"]";
        CONTENT_TYPES: "content-types", "a list of media types", "[\"application/json\"]";
        MAX_REQUEST: "max-request", "a quantity of bytes", "\"1 MiB\"";
        MAX_RESPONSE: "max-response", "a quantity of bytes", "\"8 MiB\"";
        ANSWER_HEADERS: "answer-headers", "a list of names of header fields", "[\"x-ratelimit-remaining\"]";
        BODY_TABLE: "body", "a table of rules for JSON", "{ fields = [\"to\", \"text\"], \"/to\" = { one-of = [\"team@example.com\"] } }";
        TIMEOUT: "timeout", "a duration", "\"30 s\"";
        BUDGET_TABLE: "budget", "a table of quantities of bytes", "{ sent = \"100 MiB\", received = \"1 GiB\" }";
        TLS: "tls", "`1.2` or `1.3`", "\"1.3\"";
        AUTHORITIES: "authorities", "certificates in PEM", "\"-----BEGIN CERTIFICATE-----\\nMA0wADAFBgMrZXADAgAA\\n-----END CERTIFICATE-----\\n\"";
        PINS: "pins", "a list of SHA-256 digests of public keys",
            "[\"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"]";
        PRIVATE_NETWORK: "private-network", "a list of address blocks", "[\"10.1.0.0/16\"]";
    }
    /// In each `budget` of `http`.
    BUDGET = {
        SENT: "sent", "a quantity of bytes", "\"100 MiB\"";
        RECEIVED: "received", "a quantity of bytes", "\"1 GiB\"";
    }
    /// In each `body` of `http`, beside JSON pointers.
    BODY = {
        BODY_FIELDS: "fields", "a list of members", "[\"to\", \"text\"]";
    }
    /// At each JSON pointer of `body`: exactly one.
    PREDICATE = {
        ABSENT: "absent", "`true`", "true";
        EQUALS: "equals", "a string, a whole number or a boolean", "\"draft\"";
        ONE_OF: "one-of", "a list of strings, whole numbers or booleans", "[\"team@example.com\", \"board@example.com\"]";
        PATTERN: "pattern", "a text in which `*` stands for any characters", "\"*@example.com\"";
    }
    /// In each `inject`: one kind and what goes with it.
    INJECT = {
        BEARER: "bearer", "the name of a secret", "\"github-token\"";
        BASIC: "basic", "the name of a secret", "\"registry-password\"";
        HEADER: "header", "the name of a header field", "\"x-api-key\"";
        QUERY: "query", "a key of the query", "\"key\"";
        OAUTH2: "oauth2", "`client-credentials`, `refresh-token` or `token-exchange`", "\"client-credentials\"";
        GITHUB_APP: "github-app", "the name of a key", "\"acme-app\"";
        AWS_SIGV4: "aws-sigv4", "the name of a secret", "\"aws-secret\"";
        HTTP_SIGNATURE: "http-signature", "the name of a key", "\"partner\"";
        DPOP: "dpop", "the name of a key", "\"proof\"";
        WEBHOOK_HMAC: "webhook-hmac", "the name of a secret", "\"hook\"";
        MTLS: "mtls", "the name of a key", "\"client\"";
        USER: "user", "a user's name without a colon", "\"deploy\"";
        SECRET: "secret", "the name of a secret", "\"api-key\"";
        TOKEN_ENDPOINT: "token-endpoint", "a URL without a query", "\"https://login.example.com/oauth/token\"";
        CLIENT_ID: "client-id", "the client's name at the authorization server", "\"release-bot\"";
        AUTH: "auth", "`basic`, `post`, `private-key-jwt` or `none`", "\"basic\"";
        CLIENT_SECRET: "client-secret", "the name of a secret", "\"client-secret\"";
        CLIENT_KEY: "key", "the name of a key", "\"client\"";
        REFRESH_TOKEN: "refresh-token", "the name of a secret", "\"refresh\"";
        SUBJECT_TOKEN: "subject-token", "the name of a secret", "\"subject\"";
        SUBJECT_TOKEN_TYPE: "subject-token-type", "a token type of RFC 8693",
            "\"urn:ietf:params:oauth:token-type:access_token\"";
        SCOPE: "scope", "words with one space between them", "\"read write\"";
        TOKEN_AUDIENCE: "audience", "an audience or resource", "\"https://api.example.com\"";
        INSTALLATION: "installation", "a whole number of at least 1", "12345678";
        REPOSITORIES: "repositories", "a list of names of repositories", "[\"site\"]";
        PERMISSIONS: "permissions", "a table of permissions, each `read` or `write`", "{ contents = \"read\" }";
        ACCESS_KEY_ID: "access-key-id", "the public half of an access key", "\"AKIAIOSFODNN7EXAMPLE\"";
        REGION: "region", "a region", "\"eu-central-1\"";
        SERVICE: "service", "a service", "\"s3\"";
        LIFETIME: "lifetime", "a duration", "\"60 s\"";
        TOKEN: "token", "the name of a secret", "\"bound-token\"";
        SCHEME: "scheme", "`github`, `stripe`, `slack` or `standard`", "\"github\"";
        CERTIFICATE: "certificate", "certificates in PEM, the client's first",
            "\"-----BEGIN CERTIFICATE-----\\nMA0wADAFBgMrZXADAgAA\\n-----END CERTIFICATE-----\\n\"";
    }
}
