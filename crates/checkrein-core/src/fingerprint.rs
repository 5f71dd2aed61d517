//! Request digest and fingerprint of an action.
