//! Where a store is: the URL, and how it is shown without its secrets.

use crate::store::StoreError;

/// Where a store is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(String);

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        if redis::parse_redis_url(url).is_none() {
            return Err(StoreError::NotCommitted("this is no redis:// URL".to_owned()));
        }
        Ok(Self(url.to_owned()))
    }

    pub(super) fn url(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address")
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redis")
    }
}
