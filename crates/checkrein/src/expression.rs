//! Policy expressions: CEL text, compiled once; the common subset runs natively.
