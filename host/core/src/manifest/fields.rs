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
        GRANTS_TABLE: "grants", "a table of grants", "{ sign-release = { sign = { key = \"release\" } } }";
    }
    /// In `[agent]`.
    AGENT = {
        NAME: "name", "the agent's name, 1 to 64 characters of a-z, 0-9 and -", "\"release-bot\"";
        COMPONENT: "component", "the path of a component, relative to the manifest's folder", "\"release_bot.wasm\"";
        DIGEST: "digest", "the digest that `claviger pin` wrote",
            "\"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"";
        ARGS: "args", "a list of strings", "[\"--verbose\"]";
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
    /// In each `[grants.…]`.
    GRANT = {
        SIGN_TABLE: "sign", "a table that names a key", "{ key = \"release\", namespace = \"file\" }";
        USES: "uses", "a whole number of at least 1", "500";
        RATE: "rate", "a rate", "\"30/hour\"";
        HOURS: "hours", "a window of the week, or a list of 1 to 16", "\"Mon-Fri 08:00-18:00 Europe/Zurich\"";
        EXPIRES: "expires", "a date and time with its offset, without quotes", "2027-01-01T00:00:00Z";
        ON_VIOLATION: "on-violation", "`deny` or `suspend`", "\"suspend\"";
    }
    /// In each `sign`.
    SIGN = {
        KEY: "key", "the name of a key, 1 to 64 characters of a-z, 0-9 and -", "\"release\"";
        NAMESPACE: "namespace", "a namespace of the key's `sshsig` profile", "\"file\"";
        AUDIENCE: "audience", "an audience of the key's `jws` profile", "\"https://api.example.com\"";
        SUBJECT: "subject", "the `sub` of every token", "\"release-bot\"";
        TTL: "ttl", "the life of a token", "\"10 min\"";
        LABEL: "label", "the label of the key's `labeled` profile", "\"acme/build\"";
    }
}

/// Capabilities and constraints that the format reserves and this version does not serve. A knob that nothing enforces is an
/// error, not a comment.
pub const UNSERVED: &[&str] = &["http", "inject", "seal", "mac", "attest", "approval"];
