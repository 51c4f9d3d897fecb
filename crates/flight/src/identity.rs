//! Who calls: a bearer token becomes a `Subject`.
//!
//! What holds here: no anonymous request exists; the algorithm comes from the key and never from the token; audience
//! and issuer are pinned; a revoked token is refused by the very next request; one text answers every bad token.

use crate::flood::Flood;
use custody_engine::{Engine, Session};
use custody_model::{Authentication, Principal, Problem, Purpose, Subject, TokenRecord, Verb, WallNanos};
use ed25519_dalek::SigningKey;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tonic::metadata::MetadataMap;

/// Allowed difference between two clocks, in seconds.
const SKEW_SECONDS: u64 = 60;

/// The claims of a token that the warehouse issues.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The warehouse.
    pub iss: String,
    /// The principal.
    pub sub: String,
    /// The server.
    pub aud: String,
    /// Not after, in seconds since 1970.
    pub exp: u64,
    /// Issued at, in seconds since 1970.
    pub iat: u64,
    /// The token's id.
    pub jti: String,
    /// `user`, `service`.
    pub kind: String,
    /// Role claims.
    pub roles: BTreeSet<String>,
    /// Attribute claims.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
    /// Purposes the bearer may name.
    pub purposes: BTreeSet<String>,
    /// `training`, `serving`; empty: not said.
    #[serde(default)]
    pub stage: String,
    /// The model that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<u64>,
}

/// What a token is issued for.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// The principal.
    pub principal: String,
    /// `user`, `service`.
    pub kind: String,
    /// Role claims.
    pub roles: BTreeSet<String>,
    /// Attribute claims.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
    /// Purposes the bearer may name; at least one.
    pub purposes: BTreeSet<String>,
    /// `training`, `serving`.
    pub stage: String,
    /// The model that asks, and its version.
    pub model: Option<(String, u64)>,
    /// The server it is for.
    pub audience: String,
    /// How long it lasts, in seconds.
    pub seconds: u64,
}

/// Issues a token: recorded first, then signed. Needs role `admin` of the session.
pub async fn issue_token(session: &Session, engine: &Engine, request: TokenRequest) -> Result<String, Problem> {
    if request.purposes.is_empty() {
        return Err(Problem::new(2501, "a token needs a purpose").help("--purpose research"));
    }
    let now = seconds(engine.clock().now());
    let claims = Claims {
        iss: engine.settings().name.clone(),
        sub: request.principal,
        aud: request.audience,
        exp: now.saturating_add(request.seconds),
        iat: now,
        jti: uuid::Uuid::now_v7().to_string(),
        kind: request.kind,
        roles: request.roles,
        attributes: request.attributes,
        purposes: request.purposes,
        stage: request.stage,
        model_version: request.model.as_ref().map(|(_, v)| *v),
        model: request.model.map(|(m, _)| m),
    };
    session.record_token(record(&claims, false)).await?;
    let key = EncodingKey::from_ed_der(&pkcs8(&engine.keys().issuer_seed()?));
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key)
        .map_err(|e| Problem::bug(format!("the token could not be signed: {e}")))
}

/// Revokes a token by its id. Needs role `admin`.
pub async fn revoke_token(session: &Session, engine: &Engine, jti: &str) -> Result<(), Problem> {
    let catalog = engine.catalog();
    let issued = catalog.token(jti).ok_or_else(|| Problem::new(6501, format!("no token `{jti}` was issued here")))?;
    session.record_token(TokenRecord { revoked: true, ..issued.clone() }).await
}

fn record(claims: &Claims, revoked: bool) -> TokenRecord {
    TokenRecord {
        jti: claims.jti.clone(),
        revoked,
        principal: Principal(claims.sub.clone()),
        kind: claims.kind.clone(),
        roles: claims.roles.clone(),
        attributes: claims.attributes.clone(),
        purposes: claims.purposes.iter().map(|p| Purpose(p.clone())).collect(),
        audience: claims.aud.clone(),
        expires: WallNanos(i64::try_from(claims.exp).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)),
    }
}

/// Turns requests into sessions.
#[derive(Clone)]
pub struct Authenticator {
    engine: Arc<Engine>,
    audience: String,
    flood: Arc<Flood>,
}

impl Authenticator {
    /// For a server that answers to this audience.
    pub fn new(engine: Arc<Engine>, audience: impl Into<String>) -> Self {
        Self { engine, audience: audience.into(), flood: Arc::default() }
    }

    /// The engine behind.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The session of a request, from its metadata. `local` is a ready subject, which only the channel within this
    /// process can hand over; `from` is where the request comes from.
    pub async fn session(
        &self,
        metadata: &MetadataMap,
        local: Option<&Subject>,
        from: Option<IpAddr>,
        verb: Verb,
    ) -> Result<Session, Problem> {
        if let Some(subject) = local {
            return Ok(self.engine.session(subject.clone()));
        }
        self.engine.refresh().await?;
        let bearer = metadata
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
        match bearer.and_then(|token| self.claims(token)) {
            None => Err(self.nobody(from, verb).await),
            Some(claims) => self.with_purpose(claims, metadata, verb).await,
        }
    }

    /// The claims of a good token; `None` for a bad one of any kind.
    pub fn claims(&self, token: &str) -> Option<Claims> {
        let seed = self.engine.keys().issuer_seed().ok()?;
        let public = SigningKey::from_bytes(&seed).verifying_key();
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&[&self.audience]);
        rules.set_issuer(&[&self.engine.settings().name]);
        rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        rules.leeway = SKEW_SECONDS;
        // The engine's clock decides, below.
        rules.validate_exp = false;
        let claims =
            jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_ed_der(public.as_bytes()), &rules).ok()?.claims;
        let now = seconds(self.engine.clock().now());
        let catalog = self.engine.catalog();
        let known = catalog.token(&claims.jti)?;
        let good = claims.exp.saturating_add(SKEW_SECONDS) > now
            && claims.iat <= now.saturating_add(SKEW_SECONDS)
            && !known.revoked
            && *known == record(&claims, false);
        good.then_some(claims)
    }

    async fn with_purpose(&self, claims: Claims, metadata: &MetadataMap, verb: Verb) -> Result<Session, Problem> {
        let asked = metadata.get("x-purpose").and_then(|v| v.to_str().ok()).map(ToString::to_string);
        let listed = || claims.purposes.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
        let problem = match (&asked, claims.purposes.len()) {
            (Some(purpose), _) if claims.purposes.contains(purpose) => None,
            (Some(purpose), _) => Some(
                Problem::new(3002, format!("purpose `{purpose}` is not among the purposes of this token"))
                    .help(format!("it may name {}", listed())),
            ),
            (None, 1) => None,
            (None, _) => {
                Some(Problem::new(3003, "no purpose given").help(format!("send `x-purpose`: one of {}", listed())))
            }
        };
        let purpose = asked.or_else(|| claims.purposes.first().cloned()).unwrap_or_default();
        let settings = self.engine.settings();
        let session = self.engine.session(Subject {
            principal: Principal(claims.sub),
            kind: claims.kind,
            roles: claims.roles,
            attributes: claims.attributes,
            purpose: Purpose(purpose),
            environment: settings.environment.clone(),
            stage: claims.stage,
            region: settings.region.clone(),
            model: claims.model,
            model_version: claims.model_version,
            authentication: Authentication::Token,
            session: None,
            token: Some(claims.jti),
        });
        if let Some(problem) = problem {
            return Err(session.refuse(verb, problem).await);
        }
        match metadata.get("x-prediction") {
            None => Ok(session),
            Some(id) => session.for_prediction(id.to_str().unwrap_or_default()),
        }
    }

    /// No token, a bad one, an expired one, one for another server: the same answer, and an entry.
    async fn nobody(&self, from: Option<IpAddr>, verb: Verb) -> Problem {
        let problem =
            Problem::new(3001, "no valid token").help("send `authorization: Bearer …`; custody token issue makes one");
        match self.flood.count(from, seconds(self.engine.clock().now())) {
            0 => problem,
            count => self.engine.refuse_unknown(verb, problem, count).await,
        }
    }

    /// Records the refusals that are in no entry yet. Call it when the server ends.
    pub(crate) async fn settle(&self) {
        let count = self.flood.rest();
        if count > 0 {
            let problem = Problem::new(3001, "no valid token");
            self.engine.refuse_unknown(Verb::Metadata, problem, count).await;
        }
    }
}

fn seconds(now: WallNanos) -> u64 {
    u64::try_from(now.0 / 1_000_000_000).unwrap_or(0)
}

/// The DER of an Ed25519 private key, PKCS#8 version 1 (RFC 8410).
fn pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    const PREFIX: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    [PREFIX.as_slice(), seed].concat()
}
