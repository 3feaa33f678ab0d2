//! The story that the demo plays: why, what the reader types into a shell, and what must come of it. All command lines are here. Plays
//! nothing itself.

/// What a line of the story must do for the story to go on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    /// Exit 0.
    Works,
    /// Exit 0 and print this.
    Says(&'static str),
    /// Exit with this code: the refusal is the point.
    Exits(i32),
}

/// A line of the story: why, what is typed, and what must come of it.
pub(super) type Line = (&'static str, &'static str, Then);

/// The first act: an agent signs a release with a key that it cannot read.
pub(super) const RELEASE: &[Line] = &[
    (
        "The commands below find their keyring here.",
        "echo $CLAVIGER_KEYRING",
        Then::Says("keys"),
    ),
    (
        "A release to sign.",
        "tar -czf dist/hello-1.0.tar.gz hello.txt",
        Then::Works,
    ),
    (
        "A keyring that a TPM seals. This one is a TPM in software, for development, and every listing says so.",
        "claviger init --custody swtpm",
        Then::Works,
    ),
    (
        "A key that lives in the TPM, signs files for OpenSSH, and nothing else, for ever.",
        "claviger key create release --profile sshsig --namespace file",
        Then::Works,
    ),
    (
        "Its public half, for whoever verifies.",
        "echo \"release@example.com $(claviger key public release --format openssh)\" > allowed_signers && cat allowed_signers",
        Then::Says("release@example.com ecdsa-sha2-nistp256 "),
    ),
    (
        "What the operator lets the agent do.",
        "cat manifest.toml",
        Then::Says("[grants.sign-release]"),
    ),
    (
        "Does that make sense?",
        "claviger check manifest.toml",
        Then::Works,
    ),
    (
        "An agent whose bytes nobody approved does not run.",
        "claviger run manifest.toml hello-1.0.tar.gz",
        Then::Exits(3),
    ),
    (
        "The operator approves exactly these bytes.",
        "claviger pin manifest.toml",
        Then::Works,
    ),
    (
        "What would a use of the grant be decided by? Touches no key.",
        "claviger explain manifest.toml sign-release",
        Then::Works,
    ),
    (
        "The agent signs the release, then tries everything that it was not granted.",
        "claviger run manifest.toml hello-1.0.tar.gz | tee report",
        Then::Says("sign a commit: refused"),
    ),
    (
        "All five attempts were refused.",
        "grep -c ': refused, ' report",
        Then::Says("5\n"),
    ),
    (
        "Somebody adds one byte to the agent.",
        "truncate -s +1 release_bot.wasm",
        Then::Works,
    ),
    (
        "It is no longer the agent that was approved.",
        "claviger run manifest.toml hello-1.0.tar.gz",
        Then::Exits(3),
    ),
    (
        "What it did and what it was refused is on the log.",
        "claviger audit tail -n 40",
        Then::Says("sign-commits"),
    ),
    (
        "Under another namespace the same signature is worth nothing.",
        "ssh-keygen -Y verify -f allowed_signers -I release@example.com -n git -s dist/hello-1.0.tar.gz.sig < dist/hello-1.0.tar.gz",
        Then::Exits(255),
    ),
    (
        "OpenSSH, which knows nothing of Claviger, accepts the signatures.",
        "ssh-keygen -Y verify -f allowed_signers -I release@example.com -n file -s dist/hello-1.0.tar.gz.sig < dist/hello-1.0.tar.gz",
        Then::Says("Good \"file\" signature"),
    ),
    (
        "The note that the agent wrote, too.",
        "ssh-keygen -Y verify -f allowed_signers -I release@example.com -n file -s dist/RELEASE-NOTE.md.sig < dist/RELEASE-NOTE.md",
        Then::Says("Good \"file\" signature"),
    ),
    (
        "And the log is whole: every entry is in a Merkle tree whose head is signed.",
        "claviger audit verify",
        Then::Works,
    ),
];

/// The second act: an agent uses an API with a token that it never sees.
pub(super) const API: &[Line] = &[
    (
        "An API that insists on a token. This one runs on this machine.",
        "cat api-origin",
        Then::Says("https://localhost:"),
    ),
    (
        "The operator puts the token into the keyring: as a bearer, for this API alone.",
        "claviger secret add api-token --kind bearer --origin $(cat api-origin) < api-token",
        Then::Works,
    ),
    (
        "It is there, and there is no command that shows it again.",
        "claviger secret show api-token",
        Then::Says("bearer"),
    ),
    (
        "What the operator lets the agent do.",
        "cat manifest.toml",
        Then::Says("inject = { bearer = \"api-token\" }"),
    ),
    (
        "The operator looks at it, and approves exactly these bytes.",
        "claviger check manifest.toml && claviger pin manifest.toml",
        Then::Works,
    ),
    (
        "Which rule would decide about a request, and what would be attached? Touches no key.",
        "claviger explain manifest.toml \"GET $(cat api-origin)/issues?state=open\"",
        Then::Says("allow"),
    ),
    (
        "The agent reads the issues and posts a report. It uses an HTTP library that knows nothing of Claviger.",
        "cat api-origin | claviger run manifest.toml -",
        Then::Says("reported 2 open issues: 201"),
    ),
    (
        "Then it tries to leave its grant, and to have the API repeat the token.",
        "echo \"$(cat api-origin) probe\" | claviger run manifest.toml - | tee report",
        Then::Says("refused"),
    ),
    (
        "Nothing of that succeeded,",
        "grep SUCCEEDED report",
        Then::Exits(1),
    ),
    (
        "and the token is in nothing that the agent said.",
        "grep -f api-token report",
        Then::Exits(1),
    ),
    (
        "The API did repeat the token. That answer was withheld, and the grant is suspended.",
        "claviger audit tail -n 40",
        Then::Says("a managed secret was in an answer"),
    ),
    (
        "So nothing more goes out under it, however well it behaves,",
        "cat api-origin | claviger run manifest.toml - || true",
        Then::Says("suspended"),
    ),
    (
        "until the operator has had a look.",
        "claviger grant resume api-bot api && cat api-origin | claviger run manifest.toml -",
        Then::Says("reported 2 open issues: 201"),
    ),
    (
        "A token that has leaked elsewhere is taken out of use at once.",
        "claviger secret revoke api-token",
        Then::Works,
    ),
    (
        "The agent is not even started without it.",
        "cat api-origin | claviger run manifest.toml -",
        Then::Exits(3),
    ),
    ("And the log is whole.", "claviger audit verify", Then::Works),
];
