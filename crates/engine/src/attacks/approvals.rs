//! Access that was asked for: it is approved by somebody else, opens what policies say, for who asked and what for, until it
//! ends or is taken back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::{Warehouse, block_on};
use crate::{Choice, Narrower, Project, ReadRequest, Session};
use custody_model::{AccessGrant, EntryId, Payload, Pin, Problem, Rung, Verb, WallNanos};
use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

/// A policy that looks at approvals.
pub(super) const POLICY: &str = r#"
    @id("approved") permit (principal, action in Action::"up_to_raw", resource in Table::"raw.patients")
    when { resource.approved.contains("raw") };"#;

fn approving(folder: &Path) {
    fs::write(folder.join("policies/approved.cedar"), POLICY).unwrap();
}

pub(super) fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

impl Warehouse {
    pub(super) fn session(&self, who: &str) -> Session {
        self.engine.session(self.principals[who].clone())
    }

    /// `research` asks for `rung` of these columns of a table.
    pub(super) async fn asks(&self, table: &str, columns: &[&str], rung: Rung) -> EntryId {
        let research = self.session("research");
        let table = table.parse().unwrap();
        research.request_access(&table, names(columns), rung, 3_600, "study 12").await.unwrap().id
    }

    /// The same, approved by `engineer`, who administers policies here.
    pub(super) async fn given(&self, table: &str, columns: &[&str], rung: Rung) -> EntryId {
        let asked = self.asks(table, columns, rung).await;
        self.session("engineer").approve_access(asked, &Narrower::default(), "agreed").await.unwrap().id
    }

    /// An approval that ended long ago.
    pub(super) async fn over(&self, table: &str, columns: &[&str]) {
        let request = self.asks(table, columns, Rung::Raw).await;
        let catalog = self.engine.catalog();
        let dataset = catalog.dataset(&table.parse().unwrap()).unwrap();
        let field = |c: &&str| dataset.definition().column_named(c).unwrap().field;
        let grant = AccessGrant {
            request,
            principal: "research".into(),
            dataset: dataset.id(),
            columns: columns.iter().map(field).collect(),
            rung: Rung::Raw,
            purpose: "research".into(),
            expires: WallNanos(1),
            because: "it ended".into(),
        };
        self.session("engineer").control(Verb::Admin, Payload::AccessGrant(grant), vec![]).await.unwrap();
    }
}

fn code<T>(result: Result<T, Problem>) -> String {
    result.err().map_or("done".into(), |p| p.code.to_string())
}

#[test]
fn approvals_open_what_policies_say_for_whom_and_how_long() {
    block_on(async || {
        let warehouse = Warehouse::with(approving).await;
        let patient = async |who: &str| {
            warehouse.ask(who, "SELECT mrn, hba1c FROM raw.patients ORDER BY id LIMIT 1").await.unwrap().join("")
        };
        let masked = patient("research").await;
        let raw = patient("engineer").await;
        assert!(masked != raw && !raw.is_empty(), "{masked} {raw}");

        // Asking changes nothing, nor does it tell what exists.
        let asked = warehouse.asks("raw.patients", &["mrn", "hba1c"], Rung::Raw).await;
        assert_eq!(patient("research").await, masked);
        let unseen = warehouse.asks("raw.staff", &["name"], Rung::Raw).await;
        let unknown = warehouse.asks("raw.nothing", &["x"], Rung::Raw).await;

        // Nobody else answers, and nobody approves their own.
        let narrower = Narrower::default();
        let [engineer, research, nobody] = ["engineer", "research", "nobody"].map(|who| warehouse.session(who));
        for (session, request, told) in [
            (&nobody, asked, "C6005"),
            (&research, asked, "C3107"),
            (&nobody, unknown, "C6005"),
            (&engineer, unknown, "C6001"),
            (&engineer, EntryId(uuid::Uuid::nil()), "C6005"),
        ] {
            assert_eq!(code(session.approve_access(request, &narrower, "why").await), told);
        }
        assert_eq!(code(nobody.deny_access(unseen, "why").await), "C6005");
        let too_much = async |narrower: Narrower| code(engineer.approve_access(asked, &narrower, "why").await);
        assert_eq!(too_much(Narrower { columns: names(&["note"]), ..Default::default() }).await, "C2103");
        assert_eq!(too_much(Narrower { seconds: Some(3_601), ..Default::default() }).await, "C2103");
        let partial = warehouse.asks("raw.patients", &["mrn"], Rung::Partial).await;
        let higher = Narrower { rung: Some(Rung::Raw), ..Default::default() };
        assert_eq!(code(engineer.approve_access(partial, &higher, "why").await), "C2103");
        research.deny_access(partial, "withdrawn").await.unwrap();
        let none = research.request_access(&"raw.patients".parse().unwrap(), names(&["mrn"]), Rung::None, 1, "").await;
        assert_eq!(code(none), "C2103");

        // A part of what was asked for.
        let part = Narrower { columns: names(&["mrn"]), ..Default::default() };
        let given = engineer.approve_access(asked, &part, "agreed").await.unwrap().id;
        assert_eq!(code(engineer.approve_access(asked, &part, "twice").await), "C6005");
        let opened = patient("research").await;
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        assert_eq!([&words(&opened)[0], &words(&opened)[1]], [&words(&raw)[0], &words(&masked)[1]]);
        // For this principal and purpose alone.
        let mut other = warehouse.principals["research"].clone();
        other.purpose = "billing".into();
        let hash = |session: Session| {
            session
                .grant_of(&"raw.patients".parse().unwrap(), Pin::Newest)
                .unwrap()
                .map(|g| (g.valid_until.is_some(), g.hash))
        };
        assert!(hash(research.clone()).unwrap().0 && !hash(warehouse.engine.session(other)).unwrap().0);
        assert!(!hash(nobody.clone()).is_some_and(|(until, _)| until));

        // What is over is over; what no policy looks at opens nothing.
        warehouse.over("raw.patients", &["hba1c"]).await;
        let _ = warehouse.given("raw.staff", &["name"], Rung::Raw).await;
        assert_eq!(patient("research").await, opened);
        assert!(warehouse.ask("research", "SELECT name FROM raw.staff").await.unwrap_err().starts_with("C6001"));

        // A decision that looked at an approval is good until the approval ends.
        let request = ReadRequest::sql("SELECT mrn FROM raw.patients");
        let mut statement = research.pin(&request).await.unwrap();
        let plan = research.govern(&request, &statement).await.unwrap();
        let mut intent = research.intent_entry(&request, &statement, &plan).unwrap();
        Session::unexpired(&statement.pinned, &intent).unwrap();
        intent.wall = statement.pinned[0].grant.valid_until.unwrap();
        assert_eq!(code(Session::unexpired(&statement.pinned, &intent)), "C3303");
        Arc::make_mut(&mut statement.pinned[0].grant).valid_until = None;
        Session::unexpired(&statement.pinned, &intent).unwrap();

        // Who sees what of it.
        let listed = "SELECT r.state, r.dataset, g.rung FROM system.access.requests AS r LEFT JOIN system.access.grants AS g \
                      ON g.request_id = r.request_id ORDER BY r.requested_at, r.request_id";
        let all = [
            "approved raw.patients raw",
            "open raw.staff NULL",
            "open raw.nothing NULL",
            "denied raw.patients NULL",
            "approved raw.patients raw",
            "approved raw.staff raw",
        ];
        assert_eq!(warehouse.ask("engineer", listed).await.unwrap(), all);
        assert_eq!(warehouse.ask("research", listed).await.unwrap(), all);
        assert_eq!(warehouse.ask("nobody", listed).await.unwrap(), Vec::<String>::new());

        let until = "SELECT DISTINCT valid_until IS NULL AS always FROM system.policy.grants WHERE dataset = 'raw.patients' ORDER BY always";
        assert_eq!(
            warehouse.ask("research", until).await.unwrap(),
            ["false", "true"],
            "before it was given, and since"
        );

        // Taken back by who may.
        assert_eq!(code(nobody.revoke_access(given, "why").await), "C6005");
        engineer.revoke_access(given, "the study ended").await.unwrap();
        assert_eq!(patient("research").await, masked);
        assert_eq!(code(engineer.revoke_access(given, "twice").await), "C6005");

        // Every decision comes out again, with what was approved then.
        let project = Project::load(warehouse.folder.path()).unwrap();
        let replayed = engineer.replay(&project, &Choice::Epoch(1), &Choice::Epoch(1), WallNanos(0)).await.unwrap();
        assert_eq!((replayed.underived, replayed.changes), (vec![], vec![]));
        warehouse.engine.close().await.unwrap();
    });
}

/// The ledger itself holds no approval of one's own request: an entry that says so is not folded.
#[test]
fn nobody_approves_their_own_request() {
    block_on(async || {
        let warehouse = Warehouse::with(approving).await;
        let request = warehouse.asks("raw.patients", &["mrn"], Rung::Raw).await;
        let catalog = warehouse.engine.catalog();
        let grant = AccessGrant {
            request,
            principal: "research".into(),
            dataset: catalog.dataset(&"raw.patients".parse().unwrap()).unwrap().id(),
            columns: BTreeSet::new(),
            rung: Rung::Raw,
            purpose: "research".into(),
            expires: WallNanos(i64::MAX),
            because: String::new(),
        };
        let mut entry = warehouse.session("research").entry(
            Verb::Admin,
            custody_model::Outcome::Success,
            Payload::AccessGrant(grant),
        );
        entry.control_seq = custody_model::ControlSeq(catalog.at().0 + 1);
        assert!(catalog.as_ref().clone().apply(&entry).is_err());
        warehouse.engine.close().await.unwrap();
    });
}
