//! The provider's part of replacing a secret, as a component has it. Never has a value: the host takes the new one out of an answer and
//! attaches the one that is tried.

use std::fmt::Display;

/// What a rotator does, one function for each step of a rotation. Each is called in an instance of its own, which keeps nothing.
///
/// The operator's manifest says which secret it is, and where in the answer the new value is:
///
/// ```toml
/// [rotates]
/// secret = "api-token"
/// issue = "issue"                  # the grant whose answer holds the new value
/// probe = "probe"                  # the grant that attaches the value that is tried
/// value = "/token"
/// id = "/id"
/// ```
///
/// See [`crate::rotator!`].
pub trait Rotate {
    /// Why a step was not done. The host shows its text.
    type Error: Display;

    /// Asks the provider for a new credential, with one request under the grant `issue`. Of its answer nothing but the status is given.
    ///
    /// # Errors
    /// Whatever kept it from that.
    fn issue() -> Result<(), Self::Error>;

    /// Makes a request under the grant `probe`, which costs nothing and shows whether the provider takes the credential. Its status is all
    /// that the host looks at: 2xx, or 401 or 403.
    ///
    /// # Errors
    /// Whatever kept it from that. That the provider refuses is no error.
    fn probe() -> Result<(), Self::Error>;

    /// Has the provider take a credential no more, by the name that it gave it.
    ///
    /// # Errors
    /// Whatever kept it from that.
    fn withdraw(id: String) -> Result<(), Self::Error>;
}
