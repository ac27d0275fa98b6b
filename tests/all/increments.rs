//! Runs after the first: after each of them the mirror is what the source is, and only what is new
//! travels and is written.

use crate::support::{git_http, hooked_store, local_git};
use git_http::GitHttp;
use hooked_store::dump;
use local_git::{LocalGit, Repo, assert_same_repository, git, run};
use mirror_git_to_s3::http::{Client, Environment, Settings};
use mirror_git_to_s3::maintain::count::count;
use mirror_git_to_s3::mirror::{Cancel, Layout, MirrorError, Options, Status, Summary, mirror};
use mirror_git_to_s3::progress::Silent;
use mirror_git_to_s3::source::Source;
use mirror_git_to_s3::source::auth::Auth;
use mirror_git_to_s3::source::smart_http::SmartHttp;
use mirror_git_to_s3::store::dir::DirStore;
use mirror_git_to_s3::store::memory::{MemoryStore, Operation};
use mirror_git_to_s3::store::{Key, Store};
use proptest::prelude::*;

/// One thing that happens to a repository. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    Commit {
        branch: u8,
        word: u16,
    },
    Merge {
        into: u8,
        from: u8,
    },
    LightTag {
        tag: u8,
        at: u8,
    },
    AnnotatedTag {
        tag: u8,
        at: u8,
        word: u16,
    },
    TagOfTag {
        tag: u8,
        of: u8,
    },
    TagOfBlob {
        tag: u8,
        word: u16,
    },
    DeleteTag {
        tag: u8,
    },
    DeleteBranch {
        branch: u8,
    },
    DeleteEverything,
    /// The branch goes back and on another way.
    Force {
        branch: u8,
        word: u16,
    },
    /// The branch points where another does: no new object.
    Move {
        branch: u8,
        to: u8,
    },
    DefaultBranch {
        branch: u8,
    },
    /// The default branch gets another name, with a commit or without.
    RenameDefault {
        to: u8,
        commit: bool,
    },
    DetachHead {
        at: u8,
        orphan: bool,
    },
    OddRef {
        name: u8,
        word: u16,
    },
    DeleteOddRef {
        name: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (b, t, w) = (|| 0..4_u8, || 0..4_u8, any::<u16>);
    prop_oneof![
        4 => (b(), w()).prop_map(|(branch, word)| Step::Commit { branch, word }),
        2 => (b(), b()).prop_map(|(into, from)| Step::Merge { into, from }),
        1 => (t(), b()).prop_map(|(tag, at)| Step::LightTag { tag, at }),
        2 => (t(), b(), w()).prop_map(|(tag, at, word)| Step::AnnotatedTag { tag, at, word }),
        1 => (t(), t()).prop_map(|(tag, of)| Step::TagOfTag { tag, of }),
        1 => (t(), w()).prop_map(|(tag, word)| Step::TagOfBlob { tag, word }),
        1 => t().prop_map(|tag| Step::DeleteTag { tag }),
        1 => b().prop_map(|branch| Step::DeleteBranch { branch }),
        1 => Just(Step::DeleteEverything),
        2 => (b(), w()).prop_map(|(branch, word)| Step::Force { branch, word }),
        1 => (b(), b()).prop_map(|(branch, to)| Step::Move { branch, to }),
        1 => b().prop_map(|branch| Step::DefaultBranch { branch }),
        1 => (b(), any::<bool>()).prop_map(|(to, commit)| Step::RenameDefault { to, commit }),
        1 => (b(), any::<bool>()).prop_map(|(at, orphan)| Step::DetachHead { at, orphan }),
        1 => (t(), w()).prop_map(|(name, word)| Step::OddRef { name, word }),
        1 => t().prop_map(|name| Step::DeleteOddRef { name }),
    ]
}

fn branch(number: u8) -> String {
    ["refs/heads/main", "refs/heads/master", "refs/heads/a/b", "refs/heads/z"][number as usize]
        .into()
}

fn tag(number: u8) -> String {
    format!("refs/tags/v{number}")
}

fn odd(number: u8) -> String {
    ["refs/notes/commits", "refs/pull/1/head", "refs/odd", "refs/meta/config"][number as usize]
        .into()
}

fn commit(repo: &Repo, name: &str, word: u16) {
    let text = format!("{word}\n").repeat(usize::from(word % 50) + 1);
    let own = format!("{name} {}\n", word % 3);
    let files: [(&str, &[u8]); 3] =
        [("file", text.as_bytes()), ("other", own.as_bytes()), ("same", b"same\n")];
    repo.commit(name, &files);
}

fn tag_object(repo: &Repo, name: &str, target: &str, kind: &str, words: &str) {
    let text = format!(
        "object {target}\ntype {kind}\ntag {}\ntagger C O Mitter <c@example.com> 1700000000 +0000\n\n\
         {words}\n",
        name.trim_start_matches("refs/tags/")
    );
    let oid = repo.git_with_input(&["mktag"], text.as_bytes());
    repo.git(&["update-ref", name, &oid]);
}

fn apply(repo: &Repo, step: &Step) {
    let rev = |name: &str| repo.rev(name);
    let delete = |name: &str| {
        if rev(name).is_some() {
            repo.git(&["update-ref", "--no-deref", "-d", name]);
        }
    };
    match *step {
        Step::Commit { branch: b, word } => commit(repo, &branch(b), word),
        Step::Merge { into, from } => {
            let (Some(a), Some(b)) = (rev(&branch(into)), rev(&branch(from))) else { return };
            let merged = repo.commit_with_parents(&[&a, &b], &[("merged", a.as_bytes())]);
            repo.git(&["update-ref", &branch(into), &merged]);
        }
        Step::LightTag { tag: t, at } => {
            let Some(at) = rev(&branch(at)) else { return };
            repo.git(&["update-ref", &tag(t), &at]);
        }
        Step::AnnotatedTag { tag: t, at, word } => {
            let Some(at) = rev(&branch(at)) else { return };
            tag_object(repo, &tag(t), &at, "commit", &word.to_string());
        }
        Step::TagOfTag { tag: t, of } => {
            let Some(of) = rev(&tag(of)) else { return };
            let kind = repo.git(&["cat-file", "-t", &of]);
            tag_object(repo, &tag(t), &of, &kind, "again");
        }
        Step::TagOfBlob { tag: t, word } => {
            let blob = repo.blob(&word.to_be_bytes());
            tag_object(repo, &tag(t), &blob, "blob", "a blob");
        }
        Step::DeleteTag { tag: t } => delete(&tag(t)),
        Step::DeleteBranch { branch: b } => delete(&branch(b)),
        Step::DeleteEverything => {
            for name in repo.git(&["for-each-ref", "--format=%(refname)"]).lines() {
                delete(name);
            }
        }
        Step::Force { branch: b, word } => {
            let name = branch(b);
            if let Some(parent) = rev(&format!("{name}~1")) {
                repo.git(&["update-ref", &name, &parent]);
            }
            commit(repo, &name, word.wrapping_add(7));
        }
        Step::Move { branch: b, to } => {
            let Some(to) = rev(&branch(to)) else { return };
            repo.git(&["update-ref", &branch(b), &to]);
        }
        Step::DefaultBranch { branch: b } => drop(repo.git(&["symbolic-ref", "HEAD", &branch(b)])),
        Step::RenameDefault { to, commit: with_commit } => {
            let (Some(old), Some(oid)) = (symbolic_head(repo), rev("HEAD")) else { return };
            repo.git(&["update-ref", &branch(to), &oid]);
            repo.git(&["symbolic-ref", "HEAD", &branch(to)]);
            if old != branch(to) {
                delete(&old);
            }
            if with_commit {
                commit(repo, &branch(to), 11);
            }
        }
        Step::DetachHead { at, orphan } => {
            let Some(mut at) = rev(&branch(at)) else { return };
            if orphan {
                at = repo.commit_with_parents(&[&at], &[("only HEAD has this", b"1")]);
            }
            repo.git(&["update-ref", "--no-deref", "HEAD", &at]);
        }
        Step::OddRef { name, word } => {
            let oid = match word % 2 {
                0 => repo.commit_with_parents(&[], &[("note", &word.to_be_bytes())]),
                _ => repo.blob(&word.to_le_bytes()),
            };
            repo.git(&["update-ref", &odd(name), &oid]);
        }
        Step::DeleteOddRef { name } => delete(&odd(name)),
    }
}

fn symbolic_head(repo: &Repo) -> Option<String> {
    let out = git(repo.path()).args(["symbolic-ref", "-q", "HEAD"]).output().unwrap();
    out.status.success().then(|| String::from_utf8(out.stdout).unwrap().trim().to_owned())
}

fn forced() -> Options {
    // That guards refuse great losses has tests of its own.
    Options { force: true, layout: Layout::Loose, ..Options::default() }
}

fn mirrored(source: &dyn Source, store: &dyn Store) -> Summary {
    mirror(source, store, &forced(), &Silent).unwrap()
}

fn mirrored_as(layout: Layout, source: &dyn Source, store: &dyn Store) -> Summary {
    mirror(source, store, &Options { layout, ..forced() }, &Silent).unwrap()
}

/// How many objects git finds that these revisions reach.
fn count_objects(repo: &Repo, revisions: &[String]) -> usize {
    let mut revs = git(repo.path());
    revs.args(["rev-list", "--objects", "--no-object-names"]).args(revisions);
    run(&mut revs, b"").iter().filter(|&&byte| byte == b'\n').count()
}

/// What is reached by `new` and not by any of `known`.
fn revisions(new: &str, known: &[String]) -> Vec<String> {
    [new, "--not"].into_iter().map(str::to_owned).chain(known.iter().cloned()).collect()
}

/// What the refs and HEAD point at.
fn tips(repo: &Repo) -> Vec<String> {
    let refs = repo.git(&["for-each-ref", "--format=%(objectname)"]);
    refs.lines().map(str::to_owned).chain(repo.rev("HEAD")).collect()
}

fn assert_same_as_dumped(repo: &Repo, store: &MemoryStore) {
    let copy = tempfile::tempdir().unwrap();
    assert!(dump(store, copy.path()));
    assert_same_repository(repo.path(), copy.path());
}

/// Mirrors an empty repository, and then again after each step. In both layouts; the one of `dir`
/// is read after each step, the other one at the end.
fn check_history(steps: &[Step], dir_layout: Layout) {
    let repo = Repo::new();
    let source = LocalGit::new(repo.path());
    let target = tempfile::tempdir().unwrap();
    let dir = DirStore::new(target.path()).unwrap();
    let stores =
        [Layout::Auto, Layout::Loose, Layout::Pack].map(|layout| (layout, MemoryStore::new()));
    // Empty at first.
    mirrored_as(dir_layout, &source, &dir);
    stores.iter().for_each(|(layout, store)| drop(mirrored_as(*layout, &source, store)));
    assert_same_repository(repo.path(), target.path());
    for step in steps {
        let known = tips(&repo);
        apply(&repo, step);
        mirrored_as(dir_layout, &source, &dir);
        assert_same_repository(repo.path(), target.path());
        // No more than git itself calls new. (That may be a blob from deep inside what is known: git
        // looks no deeper than the known tips' trees.)
        let fresh = count_objects(&repo, &revisions("--all", &known));
        for (layout, store) in &stores {
            let written = mirrored_as(*layout, &source, store).objects_written as usize;
            assert!(written <= fresh, "{step:?}: {written}, more than the {fresh} new");
            check_nothing_new(*layout, &source, store);
        }
    }
    stores.iter().for_each(|(_, store)| assert_same_as_dumped(&repo, store));
}

fn check_nothing_new(layout: Layout, source: &dyn Source, store: &MemoryStore) {
    store.clear_recorded();
    let summary = mirrored_as(layout, source, store);
    assert_eq!(summary.status, Status::Unchanged, "{:?}", summary.changes);
    assert_eq!((summary.source_requests, summary.store_requests), (1, 3));
    // The refs and HEAD; what the last run has recorded, also of runs that were killed.
    let asked: Vec<_> =
        store.recorded().iter().map(|r| (r.operation, r.key().to_owned())).collect();
    let expected = [
        (Operation::Get, "info/refs"),
        (Operation::Get, "HEAD"),
        (Operation::Get, "mirror_state/state.json"),
    ];
    assert_eq!(asked, expected.map(|(operation, key)| (operation, key.to_owned())));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 50,
        failure_persistence: None,
        max_shrink_iters: 30,
        ..ProptestConfig::default()
    })]

    #[test]
    fn mirror_equals_the_source_after_every_step_of_a_random_history(
        steps in prop::collection::vec(step(), 2..8),
        packs in any::<bool>()
    ) {
        check_history(&steps, if packs { Layout::Pack } else { Layout::Loose });
    }
}

#[test]
fn mirror_equals_the_source_after_every_kind_of_step() {
    let steps = [
        Step::Commit { branch: 0, word: 1 },
        Step::Commit { branch: 0, word: 2 },
        Step::Move { branch: 2, to: 0 },
        Step::Commit { branch: 2, word: 3 },
        Step::AnnotatedTag { tag: 0, at: 0, word: 1 },
        Step::TagOfTag { tag: 1, of: 0 },
        Step::LightTag { tag: 2, at: 2 },
        Step::AnnotatedTag { tag: 2, at: 2, word: 9 },
        Step::TagOfBlob { tag: 3, word: 5 },
        Step::Merge { into: 0, from: 2 },
        Step::OddRef { name: 1, word: 4 },
        Step::OddRef { name: 2, word: 5 },
        Step::Force { branch: 0, word: 8 },
        Step::RenameDefault { to: 1, commit: false },
        Step::RenameDefault { to: 3, commit: true },
        Step::DetachHead { at: 3, orphan: true },
        Step::Commit { branch: 3, word: 10 },
        Step::DefaultBranch { branch: 2 },
        Step::DeleteTag { tag: 2 },
        Step::DeleteOddRef { name: 2 },
        Step::DeleteBranch { branch: 2 },
        Step::DeleteEverything,
        Step::Commit { branch: 1, word: 12 },
    ];
    for layout in [Layout::Auto, Layout::Loose, Layout::Pack] {
        check_history(&steps, layout);
    }
}

#[test]
fn detached_head_that_no_ref_reaches_is_fetched_once() {
    let repo = Repo::new();
    let source = LocalGit::new(repo.path());
    let store = MemoryStore::new();
    apply(&repo, &Step::Commit { branch: 0, word: 1 });
    apply(&repo, &Step::DetachHead { at: 0, orphan: true });
    mirrored(&source, &store);
    apply(&repo, &Step::OddRef { name: 2, word: 5 });
    let summary = mirrored(&source, &store);
    assert_eq!(summary.objects_written, 1);
}

#[test]
fn full_run_restores_a_lost_object_and_an_ordinary_one_does_not_look() {
    let repo = Repo::new();
    for word in 0..30 {
        apply(&repo, &Step::Commit { branch: 0, word });
    }
    let source = LocalGit::new(repo.path());
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    mirrored(&source, &store);
    let oid = repo.rev("main~7^{tree}").unwrap();
    std::fs::remove_file(target.path().join(format!("objects/{}/{}", &oid[..2], &oid[2..])))
        .unwrap();
    assert_eq!(mirrored(&source, &store).status, Status::Unchanged);
    let full = Options { full: true, layout: Layout::Loose, ..Options::default() };
    let summary = mirror(&source, &store, &full, &Silent).unwrap();
    assert_eq!(summary.objects_written, 1);
    assert_same_repository(repo.path(), target.path());
    let summary = mirror(&source, &store, &full, &Silent).unwrap();
    assert_eq!((summary.objects_written, summary.status), (0, Status::Unchanged));
}

#[test]
fn dry_run_lists_added_moved_and_deleted_refs_and_writes_nothing() {
    let repo = Repo::new();
    let source = LocalGit::new(repo.path());
    for number in 0..3 {
        apply(&repo, &Step::Commit { branch: number, word: 1 });
    }
    let store = MemoryStore::new();
    mirrored(&source, &store);
    apply(&repo, &Step::Force { branch: 0, word: 2 });
    apply(&repo, &Step::DeleteBranch { branch: 1 });
    apply(&repo, &Step::Commit { branch: 3, word: 1 });
    store.clear_recorded();
    let before = store.snapshot().len();
    let dry = Options { dry_run: true, layout: Layout::Loose, ..Options::default() };
    let summary = mirror(&source, &store, &dry, &Silent).unwrap();
    let kinds: Vec<(&str, bool, bool)> = summary
        .changes
        .iter()
        .map(|change| (change.name.as_str(), change.old.is_some(), change.new.is_some()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("refs/heads/main", true, true),
            ("refs/heads/z", false, true),
            ("refs/heads/master", true, false)
        ]
    );
    assert!(store.recorded().iter().all(|request| request.operation == Operation::Get));
    assert_eq!((store.snapshot().len(), store.open_uploads()), (before, 0));
}

#[test]
fn guard_refuses_the_loss_of_most_refs_and_nothing_changes_until_it_is_forced() {
    let repo = Repo::new();
    apply(&repo, &Step::Commit { branch: 0, word: 1 });
    for number in 0..11 {
        repo.git(&["tag", &format!("t{number}"), "main"]);
    }
    let source = LocalGit::new(repo.path());
    let store = MemoryStore::new();
    mirror(&source, &store, &Options::default(), &Silent).unwrap();
    let refused = || {
        let before = store.bytes("info/refs");
        let outcome = mirror(&source, &store, &Options::default(), &Silent);
        assert!(matches!(outcome, Err(MirrorError::Guard(_))));
        assert_eq!(store.bytes("info/refs"), before);
    };
    // Of twelve refs, five are too few and six are enough.
    for number in 0..7 {
        repo.git(&["tag", "-d", &format!("t{number}")]);
    }
    refused();
    repo.git(&["tag", "t0", "main"]);
    mirror(&source, &store, &Options::default(), &Silent).unwrap();
    apply(&repo, &Step::DeleteEverything);
    refused();
    mirrored(&source, &store);
    assert_eq!(store.bytes("info/refs").as_deref(), Some(&b""[..]));
}

// ---- over real smart HTTP --------------------------------------------------------------------

fn http_source(url: &str) -> SmartHttp {
    let client = Client::with_environment(&Settings::default(), &Environment::default()).unwrap();
    SmartHttp::new(url, client, Auth::none()).unwrap()
}

fn only_new_objects_travel(only_v0: bool, layout: Layout) {
    let repo = Repo::new();
    for word in 0..60 {
        apply(&repo, &Step::Commit { branch: 0, word });
    }
    let options = git_http::Options { only_v0, ..git_http::Options::default() };
    let server = GitHttp::start(repo.path(), options);
    let source = http_source(&format!("{}/", server.url()));
    let target = tempfile::tempdir().unwrap();
    let store = DirStore::new(target.path()).unwrap();
    let all = mirrored_as(layout, &source, &store).objects_written;
    assert_eq!(all as usize, repo.objects().len());
    // Version 0 gives the refs with the greeting.
    let asking = if only_v0 { 1 } else { 2 };
    let steps: [(Step, u64, u64); 8] = [
        // A commit: itself, its tree, two blobs at most.
        (Step::Commit { branch: 0, word: 1000 }, 4, 1),
        (Step::AnnotatedTag { tag: 0, at: 0, word: 1 }, 1, 1),
        (Step::Move { branch: 2, to: 0 }, 0, 0),
        (Step::Commit { branch: 2, word: 1001 }, 4, 1),
        (Step::Merge { into: 0, from: 2 }, 3, 1),
        (Step::Force { branch: 0, word: 1002 }, 4, 1),
        (Step::RenameDefault { to: 1, commit: true }, 4, 1),
        (Step::DeleteBranch { branch: 2 }, 0, 0),
    ];
    for (step, at_most, packs) in steps {
        apply(&repo, &step);
        let summary = mirrored_as(layout, &source, &store);
        assert!(summary.objects_written <= at_most, "{step:?}: {}", summary.objects_written);
        assert_eq!(summary.source_requests, asking + packs, "{step:?}");
        assert_same_repository(repo.path(), target.path());
    }
    // What was forced away is no longer there to be named: such a have is passed over, and the older
    // ones serve. The commit that the branch goes back to was reached by that have alone, so it comes
    // again with what it brought, though the mirror has it: more than a have it can't say, and a
    // look-up of each object would cost more than the few that are written again.
    let known = tips(&repo);
    apply(&repo, &Step::Force { branch: 1, word: 1003 });
    run(git(repo.path()).args(["reflog", "expire", "--expire=now", "--all"]), b"");
    run(git(repo.path()).args(["gc", "-q", "--prune=now"]), b"");
    let (kept, gone): (Vec<String>, Vec<String>) =
        known.into_iter().partition(|oid| repo.rev(&format!("{oid}^{{object}}")).is_some());
    assert_eq!(gone.len(), 2, "the branch, and HEAD that names it");
    let tip = repo.rev("master").unwrap();
    let again = count_objects(&repo, &revisions(&format!("{tip}~1"), &kept));
    let kept_and_again: Vec<String> = kept.into_iter().chain([format!("{tip}~1")]).collect();
    let new = count_objects(&repo, &revisions(&tip, &kept_and_again));
    assert!((1..=4).contains(&new) && (1..=4).contains(&again), "{new} new, {again} again");
    let summary = mirrored_as(layout, &source, &store);
    assert_eq!(summary.objects_written as usize, new + again, "{new} new, {again} again");
    assert_same_repository(repo.path(), target.path());
    let unchanged = mirrored_as(layout, &source, &store);
    assert_eq!(unchanged.status, Status::Unchanged);
    // To the store one more than to a bucket: a directory's packed-refs.
    assert_eq!((unchanged.source_requests, unchanged.store_requests), (asking, 4));
}

#[test]
fn ref_at_an_older_commit_is_published_though_the_source_sends_nothing_for_it() {
    for layout in [Layout::Loose, Layout::Pack] {
        let repo = Repo::new();
        (0..9).for_each(|word| apply(&repo, &Step::Commit { branch: 0, word }));
        let server = GitHttp::start(repo.path(), git_http::Options::default());
        let source = http_source(&format!("{}/", server.url()));
        let target = tempfile::tempdir().unwrap();
        let store = DirStore::new(target.path()).unwrap();
        mirrored_as(layout, &source, &store);
        // Alone, and together with something new.
        repo.git(&["branch", "older", &format!("{}~4", branch(0))]);
        assert_eq!(mirrored_as(layout, &source, &store).objects_written, 0);
        assert_same_repository(repo.path(), target.path());
        apply(&repo, &Step::Commit { branch: 0, word: 99 });
        repo.git(&["branch", "oldest", &format!("{}~6", branch(0))]);
        mirrored_as(layout, &source, &store);
        assert_same_repository(repo.path(), target.path());
    }
}

#[test]
fn only_new_objects_travel_with_version_2() {
    only_new_objects_travel(false, Layout::Auto);
    only_new_objects_travel(false, Layout::Loose);
    only_new_objects_travel(false, Layout::Pack);
}

#[test]
fn only_new_objects_travel_with_version_0() {
    only_new_objects_travel(true, Layout::Loose);
    only_new_objects_travel(true, Layout::Pack);
}

local_git::also_with_sha256! {
    mirror_equals_the_source_after_every_kind_of_step,
    full_run_restores_a_lost_object_and_an_ordinary_one_does_not_look,
    only_new_objects_travel_with_version_2,
    only_new_objects_travel_with_version_0,
    ref_at_an_older_commit_is_published_though_the_source_sends_nothing_for_it,
}

/// What a run says that the mirror holds is what is there, also where most of it was there before.
#[test]
fn full_run_counts_what_earlier_runs_have_stored() {
    for layout in [Layout::Loose, Layout::Pack] {
        let (repo, store) = (Repo::new(), MemoryStore::new());
        repo.commit("refs/heads/main", &[("a", b"one\n")]);
        let options = Options { layout, ..Options::default() };
        let source = LocalGit::new(repo.path());
        // An interrupted first run has stored objects and published nothing.
        mirror(&source, &store, &options, &Silent).unwrap();
        for key in ["info/refs", "HEAD", "objects/info/packs", "mirror_state/state.json"] {
            let _ = store.delete(&[Key::new(key).unwrap()]);
        }
        let is_counted = |summary: Summary, run: &str| {
            let counted = count(&store, 4, &Cancel::default()).unwrap();
            let holds = summary.holds.unwrap();
            assert_eq!(holds.objects, counted.objects, "{layout:?}, {run}");
            holds.objects
        };
        let first = mirror(&source, &store, &options, &Silent).unwrap();
        assert_eq!(is_counted(first, "first"), 3, "{layout:?}");
        repo.commit("refs/heads/main", &[("a", b"two\n")]);
        let keep_history = Some(std::time::Duration::from_secs(90 * 24 * 3600));
        let full = Options { full: true, keep_history, ..options };
        let second = mirror(&source, &store, &full, &Silent).unwrap();
        assert!(is_counted(second, "full") >= 6, "{layout:?}");
    }
}

/// Or `verify` would take the run for one that was killed, and excuse by that what is damaged.
#[test]
fn full_run_with_nothing_new_is_not_named_in_the_state_any_longer() {
    for layout in [Layout::Loose, Layout::Pack] {
        let (repo, store) = (Repo::new(), MemoryStore::new());
        repo.commit("refs/heads/main", &[("a", b"one\n")]);
        let full = Options { layout, full: true, ..Options::default() };
        for _ in 0..2 {
            mirror(&LocalGit::new(repo.path()), &store, &full, &Silent).unwrap();
            let state = store.bytes("mirror_state/state.json").unwrap();
            let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
            assert_eq!(state.get("writing"), None, "{layout:?}");
        }
    }
}
