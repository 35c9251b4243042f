"""The organisation, its projects and their queues: who may change them, and what may be deleted."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.queue import QueueSettings
from taskforge_server.engine.store.audit import AuditFilter, AuditLog
from taskforge_server.engine.store.tenants import Organizations, Projects
from taskforge_server.ext.ids import uuid_bytes
from tests.support.estate import enterprise, found, make_key
from tests.support.people import Person, Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(module_postgres_url: str) -> AsyncIterator[Site]:
    async with serving(module_postgres_url) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def ada(site: Site) -> Person:
    admin = await site.sign_up(organization="Ada's")
    await enterprise(site, admin)
    return admin


@pytest_asyncio.fixture(loop_scope="module")
async def key(site: Site, ada: Person) -> str:
    return (await make_key(site, ada, ada.project_id, ["*"]))["key"]


async def _refused(site: Site, method: str, path: str, who: Any, value: Any = None) -> Any:
    answer = await site.call(method, path, who, value)
    assert answer.status >= 400, answer.body
    return answer.json["code"]


async def test_the_organisation_is_ones_own(site: Site, ada: Person) -> None:
    shown = (await site.get("/v1/organization", ada)).json
    assert (shown["id"], shown["name"]) == (ada.organization_id, "Ada's")
    value = {"name": "Engines", "billing_email": "pay@example.com"}
    changed = (await site.call("PATCH", "/v1/organization", ada, value)).json
    assert changed == shown | value
    member = await site.member(ada)
    assert (await site.get("/v1/organization", member)).json == changed
    assert await _refused(site, "PATCH", "/v1/organization", member, value) == "permission_denied"
    wrong = {"billing_email": "nobody"}
    assert await _refused(site, "PATCH", "/v1/organization", ada, wrong) == "invalid_input"


async def test_a_project_from_its_making_to_its_end(site: Site, ada: Person) -> None:
    value = {"name": "shop", "description": "all of it"}
    made = (await site.post("/v1/projects", ada, value)).json
    path = f"/v1/projects/{made['id']}"
    listed = (await site.get("/v1/projects", ada)).json["items"]
    assert {row["name"] for row in listed} == {"default", "shop"}
    changed = (await site.call("PATCH", path, ada, {"description": None})).json
    assert changed == made | {"description": None}
    assert (await site.get(path, ada)).json == changed
    member = await site.member(ada)
    assert (await site.get(path, member)).json == changed
    for method in ("PATCH", "DELETE"):
        assert await _refused(site, method, path, member, {}) == "permission_denied"

    key = await make_key(site, ada, made["id"], ["*"])
    assert (await site.get("/v1/queues", key["key"])).status == 200
    assert (await site.call("DELETE", path, ada)).status == 204
    assert (await site.get(path, ada)).status == 404
    assert (await site.get("/v1/queues", key["key"])).status == 401, "its keys end with it, at once"
    audit = (await site.get("/v1/audit", ada)).json["items"]
    told = [entry["action"] for entry in audit if entry["target"] == f"project:{made['id']}"]
    assert told == ["project.delete", "project.update", "project.create"]


async def test_an_organisation_has_not_any_number_of_projects(
    site: Site, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROJECTS_PER_ORGANIZATION_MAX", 2)
    assert (await site.post("/v1/projects", ada, {"name": "second"})).status == 201
    assert await _refused(site, "POST", "/v1/projects", ada, {"name": "3"}) == "too_many_projects"


async def test_a_queue_with_open_jobs_is_not_deleted(site: Site, ada: Person, key: str) -> None:
    await site.post("/v1/queues", key, {"name": "mail"})
    job = (await site.post("/v1/queues/mail/jobs", key, {"job_type": "t"})).json
    answer = await site.call("DELETE", "/v1/queues/mail", key)
    assert (answer.status, answer.json["code"]) == (409, "queue_not_empty")
    assert "1 pending" in answer.json["detail"]
    assert (await site.post("/v1/queues/mail/jobs", key, {"job_type": "t"})).status == 201
    assert (await site.get(f"/v1/jobs/{job['id']}", key)).json["status"] == "pending"


async def test_what_is_left_of_a_deleted_queue(site: Site, ada: Person, key: str) -> None:
    queue = (await site.post("/v1/queues", key, {"name": "mail"})).json
    job = (await site.post("/v1/queues/mail/jobs", key, {"job_type": "t"})).json
    await site.post(f"/v1/jobs/{job['id']}/cancel", key)
    await site.node.projector.flush()
    assert (await site.call("DELETE", "/v1/queues/mail", key)).status == 204
    for path in ("/v1/queues/mail", f"/v1/queues/{queue['id']}"):
        assert await _refused(site, "GET", path, key) == "queue_not_found"
        assert await _refused(site, "DELETE", path, key) == "queue_not_found"
        value = {"job_type": "t"}
        assert await _refused(site, "POST", f"{path}/jobs", key, value) == "queue_not_found"
    assert (await site.get("/v1/queues", key)).json["items"] == []

    kept = (await site.get(f"/v1/jobs/{job['id']}", key)).json
    assert (kept["queue"], kept["status"]) == ("mail", "cancelled")
    listed = (await site.get("/v1/jobs", key)).json["items"]
    assert [row["id"] for row in listed] == [job["id"]]
    assert await _refused(site, "POST", f"/v1/jobs/{job['id']}/retry", key) == "queue_deleted"

    again = (await site.post("/v1/queues", key, {"name": "mail"})).json
    assert again["id"] != queue["id"], "the name is free"
    assert (await site.post("/v1/queues/mail/jobs", key, {"job_type": "t"})).status == 201
    audit = (await site.get("/v1/audit", ada)).json["items"]
    target = f"queue:{queue['id']}"
    assert next(one["action"] for one in audit if one["target"] == target) == "queue.delete"


async def test_a_project_with_work_is_not_deleted(site: Site, ada: Person, key: str) -> None:
    path = f"/v1/projects/{ada.project_id}"
    await site.post("/v1/queues", key, {"name": "mail"})
    job = (await site.post("/v1/queues/mail/jobs", key, {"job_type": "t"})).json
    answer = await site.call("DELETE", path, ada)
    assert (answer.status, answer.json["code"]) == (409, "project_not_empty")
    assert "1 queues" in answer.json["detail"]
    await site.post(f"/v1/jobs/{job['id']}/cancel", key)
    await site.node.projector.flush()
    await site.call("DELETE", "/v1/queues/mail", key)
    answer = await site.call("DELETE", path, ada)
    assert "1 deleted queues whose jobs are kept" in answer.json["detail"]
    await site.node.pool.execute("DELETE FROM jobs WHERE id = $1", uuid_bytes(job["id"]))
    assert (await site.call("DELETE", path, ada)).status == 204


async def test_a_submit_wins_over_a_deletion_at_the_same_time(
    site: Site, ada: Person, key: str
) -> None:
    """Whichever comes first: no job is taken by a queue that is gone."""
    for n in range(8):
        await site.post("/v1/queues", key, {"name": f"q{n}"})
        submit, delete = await asyncio.gather(
            site.post(f"/v1/queues/q{n}/jobs", key, {"job_type": "t"}),
            site.call("DELETE", f"/v1/queues/q{n}", key),
        )
        found = (submit.status, delete.status)
        assert found in ((201, 409), (404, 204)), (submit.body, delete.body)
        assert (await site.get(f"/v1/queues/q{n}", key)).status == (
            200 if submit.status == 201 else 404
        )


async def test_what_speaks_against_a_deletion_undoes_all_of_it(site: Site, ada: Person) -> None:
    project_id = uuid_bytes(ada.project_id)
    queue = await site.node.queues.create(project_id, "mail", 0, QueueSettings())

    def check() -> None:
        raise Conflict("a job came")

    with pytest.raises(Conflict):
        await site.node.queues.delete(project_id, queue.id, check)
    assert await site.node.queues.get(project_id, queue.id) == queue
    entries = await AuditLog(site.node.pool).page(uuid_bytes(ada.organization_id), AuditFilter())
    assert all(entry.action != "queue.delete" for entry in entries[0])


async def test_rows_of_deleted_queues_go_after_their_jobs(site: Site, ada: Person) -> None:
    queues, project_id = site.node.queues, uuid_bytes(ada.project_id)
    ids = []
    for name in ("empty", "used"):
        queue = await queues.create(project_id, name, 0, QueueSettings())
        await queues.delete(project_id, queue.id, lambda: None)
        ids.append(queue.id)
    await site.node.pool.execute(
        """INSERT INTO jobs (id, queue_id, project_id, job_type, status, shard, lsn,
            finished_at)
        VALUES (gen_random_uuid(), $1, $2, 't', 'cancelled', 0, 1, now())""",
        ids[1],
        project_id,
    )
    now = datetime.now(UTC)
    await queues.expire(now - timedelta(hours=1), 100)
    assert set(await queues.ids(project_id)) == set(ids), "too new"
    await queues.expire(now + timedelta(hours=1), 100)
    assert await queues.ids(project_id) == [ids[1]]


async def test_figures_are_shown_to_whom_they_concern(site: Site) -> None:
    ada, bob = await found(site, "ada"), await found(site, "bob")
    text = (await site.get("/v1/metrics", ada.key)).body.decode()
    assert 'taskforge_queue_jobs{queue="queue of ada",state="pending"} 1.0' in text
    assert "bob" not in text
    assert "ada two" not in text
    everybody = (await site.get("/metrics")).body.decode()
    assert "taskforge_jobs_open" in everybody
    for estate in (ada, bob):
        assert estate.mark not in everybody
        for name in (estate.admin.project_id, estate.admin.organization_id):
            assert name not in everybody


async def test_organisations_for_the_operator(site: Site, ada: Person) -> None:
    rows, projects = Organizations(site.node.pool), Projects(site.node.pool)
    pages = []
    cursor: str | None = None
    while True:
        page, cursor = await rows.page(cursor, 2)
        pages += page
        if cursor is None:
            break
    assert [row.id for row in pages] == sorted(row.id for row in pages)
    organization_id = uuid_bytes(ada.organization_id)
    assert organization_id in {row.id for row in pages}
    with pytest.raises(Conflict, match="projects first: there are 1"):
        await rows.delete(organization_id)
    await projects.delete(organization_id, uuid_bytes(ada.project_id))
    await rows.delete(organization_id)
    with pytest.raises(NotFound):
        await rows.get(organization_id)
    with pytest.raises(NotFound):
        await rows.delete(organization_id)
    login = {"email": ada.email, "password": ada.password}
    assert (await site.post("/v1/auth/login", value=login)).status == 401
