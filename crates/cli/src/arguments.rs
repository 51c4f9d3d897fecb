//! The command line, as clap reads it.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};

/// A feature computation engine that keeps the chain of custody of every feature.
#[derive(Parser, Debug)]
#[command(name = "custody", version, about, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// The project's folder; default: the nearest `custody.toml` upward.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// What data is read for.
    #[arg(long, global = true)]
    pub(crate) purpose: Option<String>,
    /// Act as a stand-in of `tests/principals.toml`; needs `dev.impersonate` in the user file.
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(crate) stand_in: Option<String>,
    /// How rows are printed.
    #[arg(long, global = true, value_enum)]
    pub(crate) format: Option<Format>,
    /// No progress.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How rows are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people; the default on a terminal.
    Table,
    /// One JSON array.
    Json,
    /// A JSON object a line; the default when piped.
    Ndjson,
    /// RFC 4180 with a header.
    Csv,
    /// An Arrow IPC file; needs `--output`.
    Arrow,
    /// A Parquet file; needs `--output`.
    Parquet,
    /// A tree; `lineage` only.
    Tree,
    /// A graph for Graphviz; `lineage` only.
    Dot,
    /// Events of the runs that made the versions; `lineage` only.
    Openlineage,
}

impl Format {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
            Self::Tree => "tree",
            Self::Dot => "dot",
            Self::Openlineage => "openlineage",
        }
    }

    /// Whether it shows a graph, not rows.
    pub(crate) fn draws_lineage(self) -> bool {
        matches!(self, Self::Tree | Self::Dot | Self::Openlineage)
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// The whole promise on synthetic data: build, govern, serve, read, deny, audit, explain, verify.
    Demo(DemoArgs),
    /// Makes a project folder with a warehouse.
    ///
    /// Example: custody init shop
    Init(InitArgs),
    /// Checks the project's files.
    Lint,
    /// Asks the queries of `tests/*.slt`, as stand-ins or oneself, and compares the answers. Exit code 1 when one is another.
    Test,
    /// What a publish would do: columns, lineage, classes, readers. Exit code 5 when something would change.
    Plan(SelectArgs),
    /// Computes private drafts of what changed.
    Run(SelectArgs),
    /// Publishes immutable versions of what changed.
    ///
    /// Example: custody publish -m 'first version'
    Publish(PublishArgs),
    /// The versions of a dataset.
    Log {
        /// `features.lab_trend`
        name: String,
    },
    /// A version: rows, columns with their classes and profiles, expectations.
    ///
    /// Example: custody show features.lab_trend@1
    Show {
        /// `features.lab_trend@1`; without a number the newest
        version: String,
    },
    /// What changed between two versions: columns, and how far their values are apart. Exit code 5 when they differ.
    ///
    /// Example: custody diff features.lab_trend@1..@2
    Diff {
        /// `features.lab_trend@1..@2`; with one number: against the newest
        versions: String,
    },
    /// Checks a version's files against the ledger; exit code 4 when they differ.
    Verify {
        /// `features.lab_trend@1`
        version: String,
        /// Also decodes every file and recomputes the content root.
        #[arg(long)]
        deep: bool,
    },
    /// Lists what ended runs left behind, and nothing that the ledger references. Removes nothing.
    ///
    /// Example: custody gc --dry-run
    Gc {
        /// Only list: the only way so far.
        #[arg(long, required = true)]
        dry_run: bool,
    },
    /// Advises against a version; it stays readable.
    ///
    /// Example: custody deprecate features.lab_trend@1 -m 'use version 2'
    Deprecate(StatusArgs),
    /// Takes a version out of use: nobody reads it any more, nothing is computed from it. Its files stay.
    ///
    /// Example: custody revoke features.lab_trend@1 -m 'wrong unit'
    Revoke(StatusArgs),
    /// Models: what they learned from, with receipts that are checked without a server.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Training sets: what each row of a spine could have known.
    #[command(subcommand)]
    TrainSet(TrainSetCommand),
    /// Runs a query, governed and audited.
    ///
    /// Example: custody sql -c 'SELECT * FROM features.lab_trend LIMIT 5'
    Sql(SqlArgs),
    /// Reads one dataset version.
    ///
    /// Example: custody read features.lab_trend@1 --output trend.parquet
    Read {
        /// `features.lab_trend`, `features.lab_trend@1`
        version: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Where a column comes from, or what depends on it.
    ///
    /// Example: custody lineage features.risk_inputs.bmi --format tree
    ///
    /// Without a project: custody lineage --ddl schema.sql --file query.sql
    Lineage(LineageArgs),
    /// Takes what other systems say of lineage; kept apart from what Custody saw itself.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Who read what, when and why.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Access beyond what policy alone gives: asked for, approved by somebody else, for a time.
    #[command(subcommand)]
    Access(AccessCommand),
    /// Bearer tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The ledger.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Serves Arrow Flight and Flight SQL on one port.
    Serve(ServeArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Where; default: a new temporary folder.
    pub(crate) dir: Option<PathBuf>,
    /// One in N of the rows.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) divide: u64,
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The folder to make; its last part is the project's name.
    pub(crate) dir: PathBuf,
    /// With a demo's definitions and data.
    #[arg(long, value_parser = ["clinic"])]
    pub(crate) demo: Option<String>,
    /// The demo data's seed.
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
    /// One in N of the demo's rows.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) divide: u64,
}

#[derive(Args, Debug, Clone, Default)]
pub(crate) struct SelectArgs {
    /// Views: `x`, `+x` with what it reads, `x+` with what reads it.
    #[arg(short, long)]
    pub(crate) select: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    /// Why; recorded.
    #[arg(short, long)]
    pub(crate) message: String,
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    /// Publish although readers may break.
    #[arg(long)]
    pub(crate) accept_breaking: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub(crate) struct OutputArgs {
    /// Write to a file, renamed into place once the stream ended well.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Rows shown in a table; 0: all.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

#[derive(Args, Debug)]
pub(crate) struct SqlArgs {
    /// The statement.
    #[arg(short, long, conflicts_with = "file")]
    pub(crate) command: Option<String>,
    /// A file with one statement; `-`: standard input.
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
    /// The id of the prediction that the rows are for: recorded with the read.
    #[arg(long, value_name = "ID")]
    pub(crate) prediction: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LineageArgs {
    /// `features.risk_inputs.bmi`, or a dataset for all of its columns.
    #[arg(required_unless_present = "ddl", conflicts_with = "ddl", default_value = "", hide_default_value = true)]
    pub(crate) column: String,
    /// A file with `CREATE TABLE` and `CREATE VIEW`: lineage of the statement in --file over these, without a project.
    #[arg(long, value_name = "FILE", requires = "file")]
    pub(crate) ddl: Vec<PathBuf>,
    /// A file with one statement: a query, INSERT, UPDATE, DELETE, MERGE or COPY; `-`: standard input.
    #[arg(long, value_name = "FILE", requires = "ddl")]
    pub(crate) file: Option<PathBuf>,
    /// What it is made of (the default).
    #[arg(long, conflicts_with = "down")]
    pub(crate) up: bool,
    /// What depends on it.
    #[arg(long)]
    pub(crate) down: bool,
    /// Only what lies between it and this column or dataset, in whichever direction.
    #[arg(long, value_name = "COLUMN", conflicts_with_all = ["up", "down", "ddl"])]
    pub(crate) to: Option<String>,
    /// Only values that flow, not what decides about rows and values.
    #[arg(long, conflicts_with = "ddl")]
    pub(crate) direct: bool,
    /// How many versions away.
    #[arg(long, default_value_t = 64)]
    pub(crate) depth: u32,
    /// At which version of the dataset; default: the newest.
    #[arg(long)]
    pub(crate) at: Option<u64>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ImportCommand {
    /// OpenLineage 2-0-2 events, one JSON object a line. Needs role `admin`.
    ///
    /// Example: custody import openlineage events.ndjson
    Openlineage {
        /// The file; `-`: standard input.
        file: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum AuditCommand {
    /// Requests, newest last.
    ///
    /// Example: custody audit search --dataset features.lab_trend
    Search {
        /// By whom.
        #[arg(long)]
        principal: Option<String>,
        /// On which dataset.
        #[arg(long)]
        dataset: Option<String>,
        /// read, serve, metadata, publish, export, admin, deny, bypass.
        #[arg(long)]
        action: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum PolicyCommand {
    /// Checks the project's policies; nothing is activated.
    Check,
    /// Activates the project's policies.
    Apply {
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
        /// Check and show only.
        #[arg(long)]
        dry_run: bool,
    },
    /// Holds the project's policies against `policies/tests/*.txt`: who reads, and what they are expected to get.
    Test,
    /// Who of the recorded readers would gain or lose what. Exit code 5 where somebody would.
    ///
    /// Example: custody policy diff 3 project --replay 30d
    Diff {
        /// The bundle to start from: an epoch.
        old: String,
        /// The bundle to go to: an epoch, or `project` for the files here.
        #[arg(default_value = "project")]
        new: String,
        /// How far back: `8h`, `30d`.
        #[arg(long, default_value = "30d")]
        replay: String,
    },
    /// What a stand-in would get of a dataset, by the active policies or by earlier ones.
    Decide {
        /// `raw.patients`
        dataset: String,
        /// Role claims.
        #[arg(long)]
        role: Vec<String>,
        /// `dev`, `prod`
        #[arg(long, default_value = "prod")]
        env: String,
        /// Attribute claims, `region=eu`.
        #[arg(long, value_name = "K=V")]
        attr: Vec<String>,
        /// By an earlier bundle: its epoch, or an entry `writer/seq`, whose catalog counts too.
        #[arg(long, value_name = "EPOCH|ENTRY")]
        at: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Issues a token and prints it.
    Issue {
        /// For whom.
        #[arg(long)]
        principal: String,
        /// `user` or `service`.
        #[arg(long, default_value = "user")]
        kind: String,
        /// Role claims.
        #[arg(long)]
        role: Vec<String>,
        /// Attribute claims, `region=eu`.
        #[arg(long, value_name = "K=V")]
        attr: Vec<String>,
        /// `training`, `serving`.
        #[arg(long, default_value = "")]
        stage: String,
        /// Further purposes beside `--purpose`.
        #[arg(long)]
        also: Vec<String>,
        /// The model that asks, `mortality@1`.
        #[arg(long, value_name = "MODEL@VERSION")]
        model: Option<String>,
        /// The server it is for; default: the project's name.
        #[arg(long)]
        audience: Option<String>,
        /// How long it lasts: `90s`, `15m`, `8h`, `30d`.
        #[arg(long, default_value = "8h")]
        expires: String,
    },
    /// Revokes a token by its id.
    Revoke {
        /// The `jti` claim.
        jti: String,
    },
    /// Tokens issued.
    List,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// `features.lab_trend@1`
    pub(crate) version: String,
    /// Why; recorded.
    #[arg(short, long)]
    pub(crate) message: String,
}

#[derive(Subcommand, Debug)]
pub(crate) enum AccessCommand {
    /// Asks for access to columns for the purpose of this request. The answer does not tell whether they exist.
    ///
    /// Example: custody access request raw.patients --columns birth_date --rung raw --for 30d -m 'study 12'
    Request {
        /// `raw.patients`
        dataset: String,
        /// Which columns.
        #[arg(long, value_delimiter = ',', required = true)]
        columns: Vec<String>,
        /// `aggregate`, `redact`, `token`, `partial`, `raw`
        #[arg(long)]
        rung: String,
        /// How long from when it is approved: `8h`, `30d`
        #[arg(long = "for", value_name = "TIME")]
        lasts: String,
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
    },
    /// Approves a request of somebody else, or a part of it. Needs role `policy_admin` or the dataset.
    Approve {
        /// The request, as `custody access list` has it.
        request: String,
        /// Only these of its columns.
        #[arg(long, value_delimiter = ',')]
        columns: Vec<String>,
        /// A lower rung.
        #[arg(long)]
        rung: Option<String>,
        /// A shorter time.
        #[arg(long = "for", value_name = "TIME")]
        lasts: Option<String>,
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
    },
    /// Denies a request, or withdraws one's own.
    Deny {
        /// The request.
        request: String,
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
    },
    /// Takes back what was approved, or gives it back.
    Revoke {
        /// The grant, as `custody access list` has it.
        grant: String,
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
    },
    /// Requests with their answers, and what holds.
    List,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ModelCommand {
    /// Registers the next version of a model and writes its receipt.
    ///
    /// Example: custody model register mortality --training-set training.mortality@1 --artifact model.bin -m 'first' --receipt model.dsse
    Register {
        /// `mortality`
        name: String,
        /// `training.mortality@1`
        #[arg(long)]
        training_set: String,
        /// The model's file.
        #[arg(long, value_name = "FILE")]
        artifact: PathBuf,
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
        /// Where the receipt goes: a DSSE envelope of an in-toto statement with the entry's proof.
        #[arg(long, value_name = "FILE")]
        receipt: PathBuf,
    },
    /// Checks a receipt; needs no project. 0 good, 4 false, 1 cannot check.
    Check {
        /// The receipt.
        receipt: PathBuf,
        /// The model's file.
        #[arg(long, value_name = "FILE")]
        artifact: PathBuf,
        /// A file with the ledger's root key.
        #[arg(long, value_name = "FILE")]
        root_key: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum TrainSetCommand {
    /// Builds the next version of a training set of the project.
    ///
    /// Example: custody train-set build training.mortality -m 'first model'
    Build {
        /// `training.mortality`
        name: String,
        /// Why; recorded.
        #[arg(short, long)]
        message: String,
        /// Build although readers may break.
        #[arg(long)]
        accept_breaking: bool,
    },
    /// Computes a version again by the record: its inputs, builder and policies. Exit code 4 when rows differ, 5 when only
    /// the files' bytes do.
    Replay {
        /// `training.mortality@1`
        version: String,
    },
    /// Checks a version's files against the ledger; exit code 4 when they differ.
    Verify {
        /// `training.mortality@1`
        version: String,
        /// Also decodes every file and recomputes the content root.
        #[arg(long)]
        deep: bool,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum LedgerCommand {
    /// Verifies every entry of every writer. 0 fresh, 4 tampered, 1 cannot verify, 8 freshness unproven.
    Verify {
        /// Checkpoints kept earlier by `custody ledger keep`.
        #[arg(long, value_name = "FILE")]
        since: Vec<PathBuf>,
        /// A copy of the ledger folder.
        #[arg(long, value_name = "DIR")]
        mirror: Vec<PathBuf>,
        /// A checkpoint of the anchor that was kept elsewhere or comes from a witness, or a copy of the folder `anchor`.
        #[arg(long, value_name = "PATH")]
        anchor: Vec<PathBuf>,
        /// How old the outside memory may be.
        #[arg(long, default_value = "5m")]
        max_age: String,
        /// Verifies this folder, a copy for one, in place of the warehouse's ledger.
        #[arg(long, value_name = "DIR")]
        ledger: Option<PathBuf>,
    },
    /// Prints the present checkpoints, to be kept elsewhere.
    Keep,
    /// Writes a proof that an entry is in the ledger, for someone who has neither it nor a server.
    Prove {
        /// `writer/seq`, or a receipt.
        reference: String,
        /// Proves the checkpoint above it to be in the anchor, too, where witnesses may have seen it.
        #[arg(long)]
        anchored: bool,
        /// Where to.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Writes a proof that one checkpoint continues another.
    Consistency {
        /// The older checkpoint, as `custody ledger keep` printed it.
        older: PathBuf,
        /// The newer one; default: the present one.
        newer: Option<PathBuf>,
        /// Whose, where the files hold several writers' checkpoints.
        #[arg(long)]
        writer: Option<String>,
        /// Where to.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Checks a proof; needs no project. 0 good, 4 false, 1 cannot check.
    CheckProof {
        /// The proof.
        proof: PathBuf,
        /// A file with the ledger's root key.
        #[arg(long, value_name = "FILE")]
        root_key: PathBuf,
    },
    /// Grows a copy of the ledger in a second place and verifies the copy by itself; or restores from one.
    #[command(group = clap::ArgGroup::new("way").required(true))]
    Replicate {
        /// The copy's folder.
        #[arg(long, value_name = "DIR", group = "way")]
        to: Option<PathBuf>,
        /// The copy to restore from.
        #[arg(long, value_name = "DIR", group = "way")]
        from: Option<PathBuf>,
    },
    /// Keeps a second copy as the process that writes the ledger tells it to, through standard input and output: what
    /// `[ledger] peer` in custody.toml runs. Needs no project.
    Peer {
        /// The copy's folder.
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Restores a copy beside the ledger, verifies and removes it: how long that takes, and what would lack.
    Drill {
        /// The copy's folder.
        #[arg(long, value_name = "DIR")]
        mirror: PathBuf,
    },
    /// Gives a writer that nobody has open a new key.
    RotateKey {
        /// Whose.
        #[arg(long, default_value = "serve")]
        writer: String,
        /// An epoch that is distrusted from here on.
        #[arg(long, value_name = "EPOCH")]
        revoke: Option<u64>,
    },
    /// Erases the sealed fields of a principal by destroying their keys, once two administrators agree. Proofs stay valid.
    Erase {
        /// The principal, as `system.access.audit` names it.
        subject: String,
        /// Why.
        #[arg(short = 'm', long = "because", value_name = "WHY")]
        because: String,
    },
    /// Writers, how many entries each has, and how many of them are signed.
    Status {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Prints the ledger's root key, to be kept where proofs are checked.
    RootKey,
    /// Entries, newest last.
    Tail {
        /// `publish`, `read.intent`, …
        #[arg(long)]
        kind: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Where to listen; default: `serve.bind`.
    #[arg(long)]
    pub(crate) bind: Option<SocketAddr>,
    /// PEM file with the certificate.
    #[arg(long, requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long, requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}
