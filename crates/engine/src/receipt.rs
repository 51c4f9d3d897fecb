//! Receipts of models: an in-toto statement in a DSSE envelope, with a proof that the ledger holds the model's entry.
//!
//! What a checker needs is the receipt, the artifact and the ledger's root key, kept elsewhere. It follows: root key →
//! checkpoint and inclusion proof → the entry's stored bytes → the artifact's digest and the key of the signature → the
//! envelope. The statement repeats what the entry says, for tools that read in-toto; where the two differ, it is refused.

use crate::{Engine, Settings, keys::Keys, proofs};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use custody_ledger::{
    NoBlobs, VerifierKey, decode,
    verify::{NotProven, Proven, check_proof},
};
use custody_model::{CatalogChange, EntryRef, ModelRecord, Payload, Problem, TableVersion};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "custody/model/v1";
const NAME: &str = "custody/receipts";

/// What a receipt says.
#[derive(Clone, Debug)]
pub(crate) struct Statement(Value);

impl Statement {
    pub(crate) fn of(record: &ModelRecord, training: &TableVersion) -> Self {
        let mut statement = claims(record);
        statement["predicate"]["trainingSet"] = json!(training.name.to_string());
        Self(statement)
    }
}

/// What the entry itself vouches for.
fn claims(record: &ModelRecord) -> Value {
    json!({
        "_type": STATEMENT,
        "subject": [{"name": record.name, "digest": {"sha3_256": record.artifact.to_string()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "model": record.name,
            "version": record.version,
            "artifactBytes": record.artifact_bytes,
            "trainingSetId": record.training.dataset.to_string(),
            "trainingSetVersion": record.training.version,
            "trainingSetRoot": record.training.content.to_string(),
        },
    })
}

/// The key that signs receipts.
pub(crate) struct ReceiptKey(SigningKey);

pub(crate) fn key(engine: &Engine) -> Result<ReceiptKey, Problem> {
    of(&engine.keys)
}

fn of(keys: &Keys) -> Result<ReceiptKey, Problem> {
    Ok(ReceiptKey(SigningKey::from_bytes(&keys.key("receipt")?)))
}

impl ReceiptKey {
    /// Its C2SP verifier string.
    pub(crate) fn verifier(&self) -> Result<String, Problem> {
        VerifierKey::new(NAME, self.0.verifying_key().as_bytes())
            .map(|key| key.to_string())
            .map_err(|e| Problem::bug(format!("the receipt key: {e}")))
    }
}

/// What DSSE signs.
fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// The receipt of a model whose entry a checkpoint covers.
pub(crate) fn make(settings: &Settings, statement: &Statement, entry: &EntryRef) -> Result<Vec<u8>, Problem> {
    let proof = proofs::prove_stored(&settings.ledger(), entry.writer.as_str(), entry.seq.0)?;
    let mut statement = statement.0.clone();
    statement["predicate"]["entry"] = json!(entry.to_string());
    statement["predicate"]["ledgerProof"] = json!(BASE64.encode(proof));
    let payload = statement.to_string().into_bytes();
    let key = of(&Keys::open(&settings.keys())?)?;
    let signature = key.0.sign(&signed_bytes(&payload)).to_bytes();
    let envelope = json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": BASE64.encode(&payload),
        "signatures": [{"keyid": key.verifier()?, "sig": BASE64.encode(signature)}],
    });
    Ok(format!("{envelope}\n").into_bytes())
}

/// Checks a receipt against an artifact and the ledger's root key: what it shows, in words, and an exit code (0 good, 4
/// false, 1 cannot check). Needs nothing else.
pub fn check_receipt(receipt: &[u8], artifact: &[u8], root_key: &str) -> (String, u8) {
    match checked(receipt, artifact, root_key) {
        Ok(told) => (told, 0),
        Err((why, code)) => (why, code),
    }
}

fn checked(receipt: &[u8], artifact: &[u8], root_key: &str) -> Result<String, (String, u8)> {
    let unreadable = |what: &str| (format!("not a receipt: {what}"), 1);
    let wrong = |what: &str| (format!("the receipt is false: {what}"), 4);
    let envelope: Value = serde_json::from_slice(receipt).map_err(|_| unreadable("it is not JSON"))?;
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_string);
    let bytes = |value: &Value, name: &str| text(value, name).and_then(|t| BASE64.decode(t).ok());
    if text(&envelope, "payloadType").as_deref() != Some(PAYLOAD_TYPE) {
        return Err(unreadable("it is no DSSE envelope of an in-toto statement"));
    }
    let payload = bytes(&envelope, "payload").ok_or_else(|| unreadable("it has no payload"))?;
    let statement: Value = serde_json::from_slice(&payload).map_err(|_| unreadable("its payload is not JSON"))?;
    let proof = statement.get("predicate").and_then(|p| bytes(p, "ledgerProof"));
    let proof = proof.ok_or_else(|| unreadable("it holds no proof of its entry"))?;
    let entry = match check_proof(&proof, root_key) {
        Ok(Proven::Entry { entry, .. }) => entry,
        Ok(Proven::Consistency { .. }) => return Err(unreadable("its proof is not of an entry")),
        Err(not @ (NotProven::False(_) | NotProven::CannotCheck(_))) => return Err((not.to_string(), not.exit_code())),
    };
    let entry = decode(&entry, &NoBlobs).map_err(|e| unreadable(&format!("its entry cannot be read: {e}")))?;
    let Payload::CatalogChange(CatalogChange::Model(record)) = entry.payload else {
        return Err(wrong("the entry it proves registers no model"));
    };
    let key: VerifierKey = record.receipt_key.parse().map_err(|_| wrong("the entry names no key"))?;
    let signature = envelope.get("signatures").and_then(|s| s.get(0)).and_then(|s| bytes(s, "sig"));
    let signature = signature.and_then(|s| <[u8; 64]>::try_from(s).ok()).ok_or_else(|| unreadable("no signature"))?;
    let named = envelope.get("signatures").and_then(|s| s.get(0)).and_then(|s| text(s, "keyid"));
    if named.as_ref() != Some(&record.receipt_key) || !key.verify(&signed_bytes(&payload), &signature) {
        return Err(wrong("its signature is not by the key that the entry names"));
    }
    let mut said = statement.clone();
    let claimed = claims(&record);
    if let (Some(said), Some(proven)) = (said["predicate"].as_object_mut(), claimed["predicate"].as_object()) {
        said.retain(|name, _| proven.contains_key(name));
    }
    if said != claimed {
        return Err(wrong("its statement is not what the entry says"));
    }
    let found = custody_store::sha3(artifact);
    if found.0 != record.artifact.0 {
        return Err(wrong(&format!("the artifact has SHA3-256 {found}, registered was {}", record.artifact)));
    }
    Ok(format!(
        "model {}@{} of training set version {}, root {}",
        record.name, record.version, record.training.version, record.training.content
    ))
}
