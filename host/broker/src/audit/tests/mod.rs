//! The log under attack. Each promise of the log is a sentence here.

mod basic;
mod damage;
mod faults;
mod kit;
mod reading;
