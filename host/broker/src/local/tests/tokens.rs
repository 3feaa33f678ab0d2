//! Tokens: asked for once for all, renewed in time, persisted before use, kept from agents.
