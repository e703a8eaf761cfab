"""A long history without waiting for it: rows copied inside the database from one job that really ran."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.rig import Rig

PER_USER = 1000
STEP = "interval '1 second'"
TABLES = ("auth_user", "jobs_job", "jobs_attempt", "jobs_placement", "jobs_event", "jobs_label")


@dataclass
class History:
    """`users`, `finished` and `pending` rows made so far; ids count up from `first_user` and `first_job`."""

    rig: Rig
    ended: int  # the job that finished ones are copied from
    waiting: int  # the same for pending ones
    users: int = 0
    finished: int = 0
    pending: int = 0

    def grow(self, *, users: int, finished: int, pending: int) -> None:
        """Up to these totals, spread evenly over the users; constraints are trusted, not checked."""
        sql = self.rig.sql
        sql("SET session_replication_role = replica")
        sql("SET synchronous_commit = off")
        indexes = self._drop_indexes()
        self._add_users(users - self.users)
        self.users = users
        self._add_jobs(self.ended, finished - self.finished, 3600)
        self.finished = finished
        self._add_jobs(self.waiting, pending - self.pending, 1800)
        self.pending = pending
        for statement in indexes:
            sql(statement)
        sql("RESET session_replication_role")
        sql("RESET synchronous_commit")
        for table in TABLES:
            sql(f"VACUUM ANALYZE {table}")
        sql("CHECKPOINT")

    def last_users(self, count: int) -> list[str]:
        return [f"user{number}" for number in range(max(0, self.users - count), self.users)]

    def _drop_indexes(self) -> list[str]:
        """Making them afterwards is cheaper; returns how. Those of constraints stay."""
        rows = self.rig.sql(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(%s) AND indexname "
            "NOT IN (SELECT conname FROM pg_constraint)",
            list(TABLES[1:]),
        )
        for name, _ in rows:
            self.rig.sql(f'DROP INDEX "{name}"')
        return [definition for _, definition in rows]

    def _add_users(self, count: int) -> None:
        name = f"'user' || ({self.users} + n)"
        template = "SELECT id FROM auth_user WHERE username = 'alice'"
        self._copy("auth_user", f"id = ({template})", count, {"username": name})

    def _add_jobs(self, job: int, count: int, age_s: int) -> None:
        """Owners in turn; ends a second apart, the last `age_s` seconds ago."""
        if count <= 0:
            return
        back = f"- ({count} - n) * {STEP} - interval '{age_s} seconds'"
        owner = f"(SELECT min(id) FROM auth_user WHERE username = 'user0') + n % {self.users}"
        label = f"'s' || n / {self.users} % 10"
        times = {
            column: f"t.{column} {back}"
            for column in ("created_at", "queued_at", "started_at", "ended_at")
        }
        labels = {"labels": f"jsonb_build_object('app', 'bench', 'sweep', {label})"}
        first = self._copy("jobs_job", f"id = {job}", count, {"owner_id": owner} | times | labels)
        mine = {"job_id": f"{first} + n"}
        ends = {column: times[column] for column in ("created_at", "started_at", "ended_at")}
        attempt = self._copy("jobs_attempt", f"job_id = {job}", count, mine | ends)
        where = f"attempt_id IN (SELECT id FROM jobs_attempt WHERE job_id = {job})"
        self._copy("jobs_placement", where, count, {"attempt_id": f"{attempt} + n"})
        self._copy("jobs_event", f"job_id = {job}", count, mine | {"at": f"t.at {back}"})
        value = {"value": f"CASE t.key WHEN 'sweep' THEN {label} ELSE t.value END"}
        self._copy("jobs_label", f"job_id = {job}", count, mine | value)
        self._copy("jobs_output", f"job_id = {job}", count, mine)

    def _copy(self, table: str, where: str, count: int, changed: Mapping[str, str]) -> int:
        """`count` copies (n = 0, 1, …) of each matching row t; returns the first new id. Columns not named stay."""
        rows = self.rig.sql(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
            "AND table_schema = 'public'",
            table,
        )
        columns = [row[0] for row in rows if row[0] != "id"]
        values = [changed.get(column, f't."{column}"') for column in columns]
        names = ", ".join(f'"{column}"' for column in columns)
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        [[first]] = self.rig.sql(f"SELECT nextval({sequence})")
        self.rig.sql(
            f"INSERT INTO {table} (id, {names}) SELECT {first} + n + {count} * (t.place - 1), "
            f"{', '.join(values)} FROM (SELECT *, row_number() OVER (ORDER BY id) AS place "
            f"FROM {table} WHERE {where}) t, generate_series(0, {count} - 1) n"
        )
        self.rig.sql(f"SELECT setval({sequence}, (SELECT max(id) FROM {table}))")
        return int(first)
