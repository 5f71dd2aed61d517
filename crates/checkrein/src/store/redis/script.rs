//! The scripts that run on the server: they compare, write and read. No gate is refused there; one says yes where a rate
//! limit surely has room.

/// A script, by its place in the list of those loaded on each server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    /// Compare the records' versions, then write; or return what is there.
    Commit,
    /// Read records, lists of leases and indexes.
    Look,
    /// Count calls of one rate limit where they surely fit; or return what is there.
    Fast,
    /// Take drafts out of a list, and acknowledge them.
    Outbox,
}

impl Script {
    pub(super) const ALL: [Self; 4] = [Self::Commit, Self::Look, Self::Fast, Self::Outbox];

    /// Its text for one incarnation of a server. The incarnation is part of it, and so of its digest: a server that has
    /// started again, or another in its place, does not know the script and runs nothing before it has been looked at.
    pub(super) fn text(self, run_id: &str) -> String {
        // With this first line the server asks before the script begins, and not at its first write, whether its memory
        // is full, its disk fails or it is a replica: a commit that begins also ends. Looking takes no memory to speak of.
        let (first, body) = match self {
            Self::Commit => ("#!lua", include_str!("commit.lua")),
            Self::Look => ("#!lua flags=allow-oom", include_str!("look.lua")),
            Self::Fast => ("#!lua", include_str!("fast.lua")),
            // What is taken out makes room.
            Self::Outbox => ("#!lua flags=allow-oom", include_str!("outbox.lua")),
        };
        format!("{first}\n-- {run_id}\n{body}")
    }
}
