"""The agent's few calls of the API server, over HTTP."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from aiohttp import web

from tests.cluster.support.pki import Authority
from tests.support.api_server_double import NODE, ApiServerDouble, Fault, pod_manifest
from tests.support.async_scenario import Clock, scenario
from zeus_agent.cluster.api_address import CREDENTIAL_SECONDS, ApiAddress, ApiNotConfigured
from zeus_agent.cluster.kube_api import PAGE_PODS, ApiRefused, ApiUnavailable, KubeApi


def test_a_pod_is_told_where_the_api_server_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert ApiAddress.in_cluster(environ, tmp_path) == ApiAddress(
        "https://10.96.0.1:443", tmp_path / "token", tmp_path / "ca.crt"
    )
    six = {**environ, "KUBERNETES_SERVICE_HOST": "fd00::1"}
    assert ApiAddress.in_cluster(six, tmp_path).url == "https://[fd00::1]:443"


def test_outside_of_a_pod_the_error_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ApiNotConfigured, match="KUBERNETES_SERVICE_HOST"):
        ApiAddress.in_cluster({}, tmp_path)
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ApiNotConfigured, match="automountServiceAccountToken"):
        ApiAddress.in_cluster(environ, tmp_path)


@scenario
async def test_a_list_of_several_pages_is_whole() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        for number in range(2 * PAGE_PODS + 1):
            await server.add(pod_manifest(name=f"pod-{number}"))
        await server.add(pod_manifest(name="elsewhere", node="node-2"))
        pages = [page async for page in api.pod_pages(NODE)]
        assert [len(page.pods) for page in pages] == [PAGE_PODS, PAGE_PODS, 1]
        names = {pod["metadata"]["name"] for page in pages for pod in page.pods}
        assert len(names) == 2 * PAGE_PODS + 1
        assert "elsewhere" not in names


@scenario
async def test_a_pod_of_more_than_64_kib_is_watched() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        await server.add(pod_manifest(annotations={"much": "x" * 300_000}))
        async for event in api.watch_pods(NODE, "100"):
            assert len(event.subject["metadata"]["annotations"]["much"]) == 300_000
            break


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.BUSY, Fault.DISCONNECT, Fault.GARBAGE])
@scenario
async def test_a_server_that_fails_is_unavailable(fault: Fault) -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        server.review_fault = server.get_fault = server.list_fault = server.watch_fault = fault
        with pytest.raises(ApiUnavailable) as failed:
            await api.review_token("t", "zeus-agent")
        assert not failed.value.is_unreachable
        with pytest.raises(ApiUnavailable):
            await api.get_pod("team", "train")
        with pytest.raises(ApiUnavailable):
            _ = [page async for page in api.pod_pages(NODE)]
        with pytest.raises(ApiUnavailable):
            _ = [event async for event in api.watch_pods(NODE, "100")]


@scenario
async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        await server.go_away()
        with pytest.raises(ApiUnavailable) as failed:
            await api.review_token("t", "zeus-agent")
        assert failed.value.is_unreachable


@scenario
async def test_a_server_that_hangs_is_waited_for_only_so_long() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        server.review_fault = Fault.HANG
        with pytest.raises(ApiUnavailable, match="no answer in time"):
            await api.review_token("t", "zeus-agent", timeout_seconds=0.05)


@scenario
async def test_a_watch_that_goes_silent_is_broken() -> None:
    async with (
        ApiServerDouble() as server,
        KubeApi(server.address, quiet_seconds=0.05) as api,
    ):
        with pytest.raises(ApiUnavailable):
            _ = [event async for event in api.watch_pods(NODE, "100")]


@scenario
async def test_what_we_may_not_do_is_refused_with_the_servers_reason() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        server.get_fault = Fault.FORBIDDEN
        with pytest.raises(ApiRefused) as refused:
            await api.get_pod("team", "train")
        assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


@scenario
async def test_a_watch_from_too_long_ago_has_to_begin_anew() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        await server.add(pod_manifest())
        await server.forget_history()
        with pytest.raises(ApiRefused) as refused:
            _ = [event async for event in api.watch_pods(NODE, "100")]
        assert refused.value.is_too_old


@scenario
async def test_a_token_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    clock, token_file = Clock(), tmp_path / "token"
    token_file.write_text("first\n")
    async with ApiServerDouble() as server:
        address = ApiAddress(server.address.url, token_file)
        async with KubeApi(address, clock=clock) as api:
            await api.get_pod("team", "train")
            token_file.write_text("second\n")
            await api.get_pod("team", "train")
            assert server.authorizations == {"Bearer first"}
            clock.advance(CREDENTIAL_SECONDS)
            await api.get_pod("team", "train")
            assert server.authorizations == {"Bearer first", "Bearer second"}


@scenario
async def test_a_token_that_is_not_accepted_is_read_again_at_once(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first")
    async with ApiServerDouble() as server:
        async with KubeApi(ApiAddress(server.address.url, token_file)) as api:
            await api.get_pod("team", "train")
            token_file.write_text("second")
            server.get_fault = Fault.UNAUTHORIZED
            with pytest.raises(ApiRefused):
                await api.get_pod("team", "train")
        assert server.authorizations == {"Bearer first", "Bearer second"}
        assert len(server.requests) == 3  # once more, and not for ever


@scenario
async def test_a_token_file_that_is_missing_is_no_crash(tmp_path: Path) -> None:
    address = ApiAddress("http://127.0.0.1:1", tmp_path / "token")
    async with KubeApi(address) as api:
        with pytest.raises(ApiUnavailable, match="No such file"):
            await api.get_pod("team", "train")


@scenario
async def test_our_token_does_not_follow_a_redirect(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    seen: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", redirect)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with KubeApi(ApiAddress(url, tmp_path / "token")) as api:
        with pytest.raises(ApiRefused):
            await api.get_pod("team", "train")
    await runner.cleanup()
    assert seen == ["/api/v1/namespaces/team/pods/train"]


@scenario
async def test_events_are_created_and_patched() -> None:
    async with ApiServerDouble() as server, KubeApi(server.address) as api:
        await api.create_event("team", {"metadata": {"name": "e1"}, "count": 1})
        await api.patch_event("team", "e1", {"count": 2})
        assert server.events == [
            ("POST", {"metadata": {"name": "e1"}, "count": 1}),
            ("PATCH e1", {"count": 2}),
        ]


@scenario
async def test_a_server_of_another_authority_gets_no_token(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = theirs.sign("server", "/CN=server", "IP:127.0.0.1")
    (tmp_path / "token").write_text("secret")
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    ca = tmp_path / "ca.crt"
    ca.write_bytes(ours.certificate.read_bytes())
    clock = Clock()
    async with KubeApi(ApiAddress(url, tmp_path / "token", ca), clock=clock) as api:
        with pytest.raises(ApiUnavailable):
            await api.get_pod("team", "train")
        assert asked == []
        ca.write_bytes(theirs.certificate.read_bytes())  # the cluster's CA was replaced
        clock.advance(CREDENTIAL_SECONDS)
        assert await api.get_pod("team", "train") == {}
    await runner.cleanup()
