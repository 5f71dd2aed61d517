//! The Redis store: the gates of many hosts, decided in one round trip.

mod address;
mod link;
mod name;
mod script;

use address::Address;
