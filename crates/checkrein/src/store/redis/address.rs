//! Where a store is: the URL, strictly read, and how it is shown without its secrets.

use std::path::PathBuf;

use zeroize::Zeroize as _;

use crate::store::StoreError;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// What is wrong with a URL, and what to write instead. Nothing of the URL is quoted: a password that contains `/`, `?`,
/// `#` or `@` and was not encoded may have ended up in any part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    #[error(
        "this is no URL of a Redis store: write `redis://HOST:PORT`, `rediss://HOST:PORT` (TLS), `unix:///PATH`, \
         `redis+sentinel://HOST:PORT,HOST:PORT/MASTER` or `redis+cluster://HOST:PORT,HOST:PORT`"
    )]
    Scheme,
    #[error("the URL of the Redis store names no host: write `redis://HOST:PORT`")]
    NoHost,
    #[error(
        "a host in the URL of the Redis store is not a name or an address: write `HOST:PORT`, or `[ADDRESS]:PORT` for IPv6{}",
        ENCODE
    )]
    Host,
    #[error("a port in the URL of the Redis store is not a number from 1 to 65535{}", ENCODE)]
    Port,
    #[error("several hosts only make sense with `redis+sentinel://` or `redis+cluster://`")]
    Hosts,
    #[error(
        "the URL of the Redis store has a `%` that is not followed by two hexadecimal digits: write `%25` for a `%` itself"
    )]
    Percent,
    #[error(
        "the URL of the Redis store contains a space or a control character: encode it as `%20` and the like"
    )]
    Character,
    #[error("the user and the password in the URL of the Redis store are not UTF-8 once decoded")]
    Utf8,
    #[error(
        "the path of the URL of the Redis store is not the number of a database from 0 to 65535: write `redis://HOST:PORT/0`{}",
        ENCODE
    )]
    Database,
    #[error("a Redis Cluster has database 0 only: leave the number out of the URL")]
    ClusterDatabase,
    #[error(
        "the URL names no master: write `redis+sentinel://HOST:PORT,HOST:PORT/MASTER`, with the name that the sentinels know it by, of letters, digits, `.`, `-` and `_`"
    )]
    NoMaster,
    #[error("the URL of the Redis store names no socket: write `unix:///run/redis/redis.sock`")]
    NoSocket,
    #[error("a parameter in the URL of the Redis store is unknown here; known are {0}{encode}", encode = ENCODE)]
    Parameter(&'static str),
    #[error("a parameter in the URL of the Redis store appears twice")]
    Twice,
    #[error("a parameter in the URL of the Redis store has no value")]
    Empty,
    #[error("certificates are for TLS only: write `rediss` instead of `redis` in the URL of the Redis store")]
    NotTls,
    #[error("`client_cert` and `client_key` belong together: give both or neither")]
    HalfIdentity,
    #[error("a fragment (`#`) makes no sense in the URL of a Redis store{}", ENCODE)]
    Fragment,
}

const ENCODE: &str = " (in a user name or a password write `%2F` for `/`, `%3F` for `?`, `%23` for `#`, `%40` for `@` and `%3A` for `:`)";

impl From<AddressError> for StoreError {
    fn from(error: AddressError) -> Self {
        Self::NotCommitted(error.to_string())
    }
}

/// A word that is never shown, and is overwritten when it goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Who one is to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Login {
    pub(super) user: Option<Secret>,
    pub(super) password: Option<Secret>,
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How the endpoints belong together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// One server, which may turn out to be a node of a cluster.
    One,
    /// The endpoints are sentinels that know the master by this name.
    Sentinel { master: String, login: Login },
    /// The endpoints are nodes of a cluster.
    Cluster,
}

/// What a TLS connection needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tls {
    /// Trusted instead of the public authorities.
    pub(super) ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Where a store is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) kind: Kind,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) login: Login,
    pub(super) database: u16,
    pub(super) tls: Option<Tls>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, AddressError> {
        if url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(AddressError::Character);
        }
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        let (base, tls) = match scheme.strip_prefix("rediss").or_else(|| scheme.strip_prefix("valkeys")) {
            Some(base) => (base, true),
            None if scheme == "unix" => ("+unix", false),
            None => (
                scheme
                    .strip_prefix("redis")
                    .or_else(|| scheme.strip_prefix("valkey"))
                    .ok_or(AddressError::Scheme)?,
                false,
            ),
        };
        if rest.contains('#') {
            return Err(AddressError::Fragment);
        }
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        // A password may contain an `@`; a host may not.
        let (place, path) = rest.split_once('/').map_or((rest, ""), |(place, path)| (place, path));
        let (login, hosts) = place.rsplit_once('@').map_or(("", place), |(login, hosts)| (login, hosts));
        let login = login_of(login)?;
        let tls = tls.then(Tls::default);
        let address = match base {
            "" => Self { kind: Kind::One, endpoints: one(hosts)?, login, database: database(path)?, tls },
            "+unix" if tls.is_none() => {
                if path.is_empty() || !hosts.is_empty() {
                    return Err(AddressError::NoSocket);
                }
                let socket = Endpoint::Unix(PathBuf::from(format!("/{}", decode(path)?)));
                Self { kind: Kind::One, endpoints: vec![socket], login, database: 0, tls }
            }
            "+sentinel" => {
                let (master, number) =
                    path.split_once('/').map_or((path, ""), |(master, number)| (master, number));
                // The characters that Sentinel itself allows.
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                if master.is_empty() || !master.bytes().all(plain) {
                    return Err(AddressError::NoMaster);
                }
                let kind = Kind::Sentinel { master: master.to_owned(), login: Login::default() };
                Self {
                    kind,
                    endpoints: endpoints(hosts, SENTINEL_PORT)?,
                    login,
                    database: database(number)?,
                    tls,
                }
            }
            "+cluster" => {
                if database(path)? != 0 {
                    return Err(AddressError::ClusterDatabase);
                }
                Self { kind: Kind::Cluster, endpoints: endpoints(hosts, PORT)?, login, database: 0, tls }
            }
            _ => return Err(AddressError::Scheme),
        };
        address.with(query)
    }

    /// Takes the parameters over.
    fn with(mut self, query: &str) -> Result<Self, AddressError> {
        let (mut seen, mut certificate, mut key) = (Vec::new(), None, None);
        let socket = self.is_socket();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(AddressError::Empty)?;
            let value = decode(value)?;
            if value.is_empty() {
                return Err(AddressError::Empty);
            }
            if seen.contains(&name) {
                return Err(AddressError::Twice);
            }
            seen.push(name);
            match (name, &mut self.kind, &mut self.tls) {
                ("ca_cert", _, Some(tls)) => tls.ca = Some(PathBuf::from(value)),
                ("client_cert", _, Some(_)) => certificate = Some(PathBuf::from(value)),
                ("client_key", _, Some(_)) => key = Some(PathBuf::from(value)),
                ("ca_cert" | "client_cert" | "client_key", _, None) => return Err(AddressError::NotTls),
                ("sentinel_user", Kind::Sentinel { login, .. }, _) => login.user = Some(Secret(value)),
                ("sentinel_password", Kind::Sentinel { login, .. }, _) => {
                    login.password = Some(Secret(value))
                }
                ("db", Kind::One, _) if socket => self.database = database(&value)?,
                ("user", Kind::One, _) if socket => self.login.user = Some(Secret(value)),
                ("password", Kind::One, _) if socket => self.login.password = Some(Secret(value)),
                _ => return Err(AddressError::Parameter(self.parameters())),
            }
        }
        match (certificate, key, &mut self.tls) {
            (Some(certificate), Some(key), Some(tls)) => tls.identity = Some((certificate, key)),
            (None, None, _) => {}
            _ => return Err(AddressError::HalfIdentity),
        }
        Ok(self)
    }

    fn is_socket(&self) -> bool {
        matches!(self.endpoints.first(), Some(Endpoint::Unix(_)))
    }

    fn parameters(&self) -> &'static str {
        match (&self.kind, self.is_socket()) {
            (_, true) => "`db`, `user` and `password`",
            (Kind::Sentinel { .. }, _) => {
                "`sentinel_user`, `sentinel_password`, and with TLS `ca_cert`, `client_cert` and `client_key`"
            }
            _ => "`ca_cert`, `client_cert` and `client_key`, for `rediss` only",
        }
    }
}

/// The URL without who one is: neither user nor password, and no parameters.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        match &self.kind {
            Kind::One if self.is_socket() => f.write_str("unix://")?,
            Kind::One => write!(f, "{scheme}://")?,
            Kind::Sentinel { .. } => write!(f, "{scheme}+sentinel://")?,
            Kind::Cluster => write!(f, "{scheme}+cluster://")?,
        }
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{endpoint}")?;
        }
        if let Kind::Sentinel { master, .. } = &self.kind {
            write!(f, "/{master}")?;
        }
        match self.database {
            0 => Ok(()),
            number if self.is_socket() => write!(f, "?db={number}"),
            number => write!(f, "/{number}"),
        }
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({self})")
    }
}

fn login_of(text: &str) -> Result<Login, AddressError> {
    let (user, password) = text.split_once(':').map_or((text, ""), |(user, password)| (user, password));
    let word = |text| {
        let word = decode(text)?;
        Ok::<_, AddressError>((!word.is_empty()).then_some(Secret(word)))
    };
    Ok(Login { user: word(user)?, password: word(password)? })
}

fn one(hosts: &str) -> Result<Vec<Endpoint>, AddressError> {
    if hosts.contains(',') {
        return Err(AddressError::Hosts);
    }
    endpoints(hosts, PORT)
}

fn endpoints(hosts: &str, default: u16) -> Result<Vec<Endpoint>, AddressError> {
    if hosts.is_empty() {
        return Err(AddressError::NoHost);
    }
    hosts.split(',').map(|host| endpoint(host, default)).collect()
}

fn endpoint(text: &str, default: u16) -> Result<Endpoint, AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(AddressError::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::Host)?;
            (
                host,
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(AddressError::Host)?) },
            )
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
        return Err(AddressError::Host);
    }
    let port = match port {
        None => default,
        Some(port) => digits(port).and_then(|port| (port > 0).then_some(port)).ok_or(AddressError::Port)?,
    };
    Ok(Endpoint::Tcp { host: host.to_ascii_lowercase(), port })
}

fn database(path: &str) -> Result<u16, AddressError> {
    if path.is_empty() { Ok(0) } else { digits(path).ok_or(AddressError::Database) }
}

fn digits(text: &str) -> Option<u16> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn decode(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit =
            || rest.next().and_then(|byte| (byte as char).to_digit(16)).ok_or(AddressError::Percent);
        let byte = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(byte).map_err(|_| AddressError::Percent)?);
    }
    String::from_utf8(bytes).map_err(|_| AddressError::Utf8)
}

#[cfg(test)]
mod tests;
