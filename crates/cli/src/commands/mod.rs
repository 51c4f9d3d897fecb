//! One command, one call.

mod access;
mod build;
mod demo;
mod govern;
mod import;
mod init;
mod ledger;
mod lineage;
mod model;
mod policy_test;
mod query;
mod serve;
mod show;
mod test;
mod training;

use crate::{
    arguments::{Arguments, Command, LedgerCommand, LineageArgs, ModelCommand},
    context::Context,
    render,
};
use custody_model::{Problem, SourceText};

/// How a command ended when nothing went wrong.
pub(crate) enum Done {
    /// As asked.
    Well,
    /// With an exit code of its own: a difference found, a ledger's verdict.
    With(u8),
}

/// A failure with the texts its places point into.
pub(crate) struct Failed {
    problem: Problem,
    texts: Vec<SourceText>,
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self { problem, texts: vec![] }
    }
}

impl Failed {
    /// With the files of a project, or the statement.
    pub(crate) fn with(problem: Problem, texts: Vec<SourceText>) -> Self {
        Self { problem, texts }
    }
}

/// Runs the command and gives the exit code: the first digit of a problem's code.
pub(crate) async fn run(arguments: Arguments) -> u8 {
    match dispatch(arguments).await {
        Ok(Done::Well) => 0,
        Ok(Done::With(code)) => code,
        Err(failed) => {
            if render::render(&failed.problem, &failed.texts, &mut std::io::stderr()).is_err() {
                return 7;
            }
            failed.problem.code.exit_code().clamp(1, 8)
        }
    }
}

async fn dispatch(arguments: Arguments) -> Result<Done, Failed> {
    if let Some(format) = arguments.format.filter(|f| f.draws_lineage())
        && !matches!(arguments.command, Command::Lineage(_))
    {
        let problem = Problem::new(2019, format!("`--format {}` draws recorded lineage", format.word()));
        return Err(problem.help("`table`, `json`, `ndjson`, `csv`, `arrow` or `parquet` print rows").into());
    }
    match &arguments.command {
        Command::Demo(args) => return demo::run(args, arguments.quiet).await,
        Command::Init(args) => return init::run(args, arguments.quiet).await,
        Command::Lineage(LineageArgs { ddl, file: Some(query), .. }) => {
            return lineage::declared(ddl, query, arguments.format).await;
        }
        Command::Ledger(LedgerCommand::CheckProof { proof, root_key }) => return ledger::check_proof(proof, root_key),
        Command::Ledger(LedgerCommand::Peer { into }) => return ledger::keep_copy(into),
        Command::Model(ModelCommand::Check { receipt, artifact, root_key }) => {
            return model::check(receipt, artifact, root_key);
        }
        _ => {}
    }
    let context = Context::find(&arguments)?;
    match &arguments.command {
        Command::Lint => build::lint(&context),
        Command::Plan(args) => build::plan(&context, args).await,
        Command::Run(args) => build::run(&context, args, arguments.quiet).await,
        Command::Publish(args) => build::publish(&context, args, arguments.quiet).await,
        Command::Log { name } => query::log(&context, name, arguments.format).await,
        Command::Test => test::run(&context).await,
        Command::Show { version } => show::show(&context, version, arguments.format).await,
        Command::Diff { versions } => show::diff(&context, versions).await,
        Command::Verify { version, deep } => build::verify(&context, version, *deep).await,
        Command::Deprecate(args) => model::status(&context, args, false).await,
        Command::Revoke(args) => model::status(&context, args, true).await,
        Command::Model(command) => model::run(&context, command).await,
        Command::Gc { dry_run: _ } => build::gc(&context).await,
        Command::TrainSet(command) => training::run(&context, command, arguments.quiet).await,
        Command::Sql(args) => query::sql(&context, args, arguments.format).await,
        Command::Read { version, output } => query::read(&context, version, output, arguments.format).await,
        Command::Lineage(args) => lineage::recorded(&context, args, arguments.format).await,
        Command::Import(command) => import::run(&context, command, arguments.format).await,
        Command::Audit(command) => query::audit(&context, command, arguments.format).await,
        Command::Policy(command) => govern::policy(&context, command, arguments.format).await,
        Command::Access(command) => access::run(&context, command, arguments.format).await,
        Command::Token(command) => govern::token(&context, command, arguments.format).await,
        Command::Ledger(command) => ledger::run(&context, command, arguments.format).await,
        Command::Serve(args) => serve::run(&context, args).await,
        Command::Demo(_) | Command::Init(_) => Ok(Done::Well),
    }
}
