-- Rows are added, never changed: the triggers refuse updates and deletions.
create table if not exists seen (
    id integer primary key, at text not null, dataset text not null, case_id text not null,
    image text not null, label text not null, image_md5 text not null, label_md5 text not null,
    findings text not null, in_force text not null, present integer not null
);
create table if not exists decisions (
    id integer primary key, at text not null, dataset text not null, case_id text not null,
    image_md5 text not null, label_md5 text not null, verdict text not null,
    role text, file text, file_md5 text, who text not null, why text not null
);
create index if not exists seen_by_case on seen (dataset, case_id, id);
create index if not exists decisions_by_case on decisions (dataset, case_id, id);
create trigger if not exists seen_kept_update before update on seen
begin select raise(abort, 'what was decided is kept for good'); end;
create trigger if not exists seen_kept_delete before delete on seen
begin select raise(abort, 'what was decided is kept for good'); end;
create trigger if not exists decisions_kept_update before update on decisions
begin select raise(abort, 'what was decided is kept for good'); end;
create trigger if not exists decisions_kept_delete before delete on decisions
begin select raise(abort, 'what was decided is kept for good'); end;
