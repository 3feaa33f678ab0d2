//! A permit is not built field by field, whatever the fields hold.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use claviger_core::audit::Settlement;
use claviger_core::{AuditSink, Clock, InstanceId, KeyRef, Permit};

fn forge(key: KeyRef, sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>) -> Permit {
    Permit {
        index: 0,
        instance: InstanceId(1),
        key: Some(key),
        message: None,
        origin: None,
        subject: None,
        sink,
        clock,
        settlement: Settlement::Released,
        traffic: None,
        spent: AtomicBool::new(false),
    }
}

fn main() {}
