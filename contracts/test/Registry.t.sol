// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {Registry} from "../src/Registry.sol";
import {TokenPull} from "../src/TokenPull.sol";
import {Base} from "./utils/Base.sol";
import {FeeToken} from "./utils/Tokens.sol";

contract RegistryTest is Base {
    bytes32 private constant OTHER = keccak256("another node");
    bytes32 private constant EVIDENCE = keccak256("a transcript");
    string private constant APP = "neverball";

    // ---- registering ----

    function test_registerRecordsTheNodeAndTakesTheStake() public {
        uint256 before = token.balanceOf(provider);
        vm.expectEmit(address(registry));
        emit Registry.NodeRegistered(OTHER, 2, provider, "[::1]:1", bytes32(uint256(9)), MIN_STAKE);
        vm.prank(provider);
        registry.register(2, OTHER, "[::1]:1", bytes32(uint256(9)), MIN_STAKE);
        Registry.Node memory n = registry.node(OTHER);
        vm.assertEq(n.owner, provider, "owner");
        vm.assertEq(n.kind, 2, "kind");
        vm.assertEq(n.status, 1, "status");
        vm.assertEq(n.stake, MIN_STAKE, "stake");
        vm.assertEq(n.registeredAt, START, "time");
        vm.assertEq(n.fingerprint, bytes32(uint256(9)), "fingerprint");
        vm.assertEq(n.endpoint, "[::1]:1", "endpoint");
        vm.assertEq(before - token.balanceOf(provider), MIN_STAKE, "paid");
        vm.assertEq(registry.nodeCount(2), 1, "count");
        vm.assertEq(registry.activeContainerOwner(OTHER), address(0), "an Indexer is no Container");
        vm.assertEq(registry.activeContainerOwner(NODE), provider, "a Container is");
    }

    function test_registerRefusesWhatIsWrong() public {
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.UnknownKind.selector, 0));
        registry.register(0, OTHER, "", 0, MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(Registry.UnknownKind.selector, 5));
        registry.register(5, OTHER, "", 0, MIN_STAKE);
        vm.expectRevert(Registry.ZeroKey.selector);
        registry.register(1, 0, "", 0, MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(Registry.BelowMinStake.selector, MIN_STAKE - 1, MIN_STAKE));
        registry.register(1, OTHER, "", 0, MIN_STAKE - 1);
        vm.expectRevert(abi.encodeWithSelector(Registry.EndpointTooLong.selector, 257));
        registry.register(1, OTHER, string(new bytes(257)), 0, MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(Registry.KeyTaken.selector, NODE));
        registry.register(1, NODE, "", 0, MIN_STAKE);
        registry.register(1, OTHER, string(new bytes(256)), 0, MIN_STAKE);
        vm.stopPrank();
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.KeyTaken.selector, NODE));
        registry.register(1, NODE, "", 0, MIN_STAKE);
    }

    function test_registerWithPermitNeedsNoApproval() public {
        uint256 key = 0xb0b;
        address owner = vm.addr(key);
        vm.prank(treasury);
        token.transfer(owner, MIN_STAKE);
        bytes32 inner = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                address(registry),
                uint256(MIN_STAKE),
                0,
                START
            )
        );
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner)));
        // Somebody submits the permit first; the registration works all the same.
        token.permit(owner, address(registry), MIN_STAKE, START, v, r, s);
        vm.prank(owner);
        registry.registerWithPermit(1, OTHER, "x", 0, MIN_STAKE, START, v, r, s);
        vm.assertEq(registry.node(OTHER).owner, owner, "owner");
    }

    function test_aForgedPermitTakesNothing() public {
        uint256 key = 0xb0b;
        vm.prank(treasury);
        token.transfer(vm.addr(key), MIN_STAKE);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, keccak256("something else"));
        vm.prank(vm.addr(key));
        vm.expectRevert();
        registry.registerWithPermit(1, OTHER, "x", 0, MIN_STAKE, START, v, r, s);
    }

    function test_aKeyThatLeftComesBackUnderItsOwnerAndKindOnly() public {
        vm.prank(provider);
        registry.leave(NODE);
        vm.prank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.StillUnbonding.selector, NODE));
        registry.register(1, NODE, "", 0, MIN_STAKE);
        vm.warp(START + UNBONDING);
        vm.prank(provider);
        registry.withdraw(NODE);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.KeyTaken.selector, NODE));
        registry.register(1, NODE, "", 0, MIN_STAKE);
        vm.prank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.KeyTaken.selector, NODE));
        registry.register(3, NODE, "", 0, MIN_STAKE);
        vm.prank(provider);
        registry.register(1, NODE, "back", 0, MIN_STAKE);
        vm.assertEq(registry.node(NODE).status, 1, "active");
        vm.assertEq(registry.nodeCount(1), 1, "listed once");
    }

    function test_aTokenWithAFeeOnTransferIsRefused() public {
        FeeToken odd = new FeeToken(provider);
        Registry r = new Registry(address(odd), admin, [MIN_STAKE, 1, 1, 1], UNBONDING, penaltyPool);
        vm.startPrank(provider);
        odd.approve(address(r), type(uint256).max);
        vm.expectRevert(TokenPull.UnsupportedToken.selector);
        r.register(1, OTHER, "", 0, MIN_STAKE);
        vm.stopPrank();
    }

    function test_updateIsTheOwners() public {
        vm.prank(provider);
        registry.update(NODE, "10.0.0.2:1", bytes32(uint256(2)));
        vm.assertEq(registry.node(NODE).endpoint, "10.0.0.2:1", "endpoint");
        vm.assertEq(registry.node(NODE).fingerprint, bytes32(uint256(2)), "fingerprint");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotOwner.selector, NODE, stranger));
        registry.update(NODE, "evil", 0);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.UnknownNode.selector, OTHER));
        registry.update(OTHER, "evil", 0);
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.EndpointTooLong.selector, 257));
        registry.update(NODE, string(new bytes(257)), 0);
        registry.leave(NODE);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotServing.selector, NODE));
        registry.update(NODE, "x", 0);
        vm.stopPrank();
    }

    function test_nodesArePaged() public {
        for (uint256 i = 1; i < 5; ++i) {
            join(bytes32(i));
        }
        (bytes32[] memory keys, Registry.Node[] memory page) = registry.nodes(1, 1, 3);
        vm.assertEq(keys.length, 3, "page");
        vm.assertEq(keys[2], bytes32(uint256(3)), "order");
        vm.assertEq(page[2].owner, provider, "content");
        (keys,) = registry.nodes(1, 3, type(uint256).max);
        vm.assertEq(keys.length, 2, "last page");
        (keys,) = registry.nodes(1, type(uint256).max, 1);
        vm.assertEq(keys.length, 0, "beyond");
        (keys,) = registry.nodes(9, 0, 10);
        vm.assertEq(keys.length, 0, "unknown kind");
    }

    // ---- unbonding ----

    function test_nothingIsWithdrawnWhileUnbonding() public {
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.NothingToTake.selector, NODE));
        registry.withdraw(NODE);
        registry.requestUnbond(NODE, MIN_STAKE);
        uint64 ready = uint64(START) + UNBONDING;
        vm.warp(ready - 1);
        vm.expectRevert(abi.encodeWithSelector(Registry.Unbonding.selector, ready));
        registry.withdraw(NODE);
        vm.warp(ready);
        uint256 before = token.balanceOf(provider);
        registry.withdraw(NODE);
        vm.assertEq(token.balanceOf(provider) - before, MIN_STAKE, "withdrawn");
        vm.expectRevert(abi.encodeWithSelector(Registry.NothingToTake.selector, NODE));
        registry.withdraw(NODE);
        vm.stopPrank();
        vm.assertEq(registry.node(NODE).stake, 2 * MIN_STAKE, "the rest stays");
    }

    function test_aSecondRequestStartsThePeriodAnewForAll() public {
        vm.startPrank(provider);
        registry.requestUnbond(NODE, 1e18);
        vm.warp(START + UNBONDING - 1);
        registry.requestUnbond(NODE, 1e18);
        vm.warp(START + UNBONDING);
        vm.expectRevert();
        registry.withdraw(NODE);
        vm.warp(START + 2 * UNBONDING - 1);
        registry.withdraw(NODE);
        vm.stopPrank();
        vm.assertEq(registry.node(NODE).stake, 3 * MIN_STAKE - 2e18, "stake");
    }

    function test_aShorterPeriodCountsForLaterRequestsOnly() public {
        vm.prank(provider);
        registry.requestUnbond(NODE, 1e18);
        vm.prank(admin);
        registry.setUnbondingPeriod(1);
        vm.warp(START + UNBONDING - 1);
        vm.prank(provider);
        vm.expectRevert();
        registry.withdraw(NODE);
    }

    function test_unbondRefusesWhatIsWrong() public {
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotOwner.selector, NODE, stranger));
        registry.requestUnbond(NODE, 1);
        vm.startPrank(provider);
        vm.expectRevert(Registry.ZeroAmount.selector);
        registry.requestUnbond(NODE, 0);
        vm.expectRevert(abi.encodeWithSelector(Registry.InsufficientStake.selector, 3 * MIN_STAKE, 3 * MIN_STAKE + 1));
        registry.requestUnbond(NODE, 3 * MIN_STAKE + 1);
        vm.expectRevert(abi.encodeWithSelector(Registry.BelowMinStake.selector, MIN_STAKE - 1, MIN_STAKE));
        registry.requestUnbond(NODE, 2 * MIN_STAKE + 1);
        registry.requestUnbond(NODE, 2 * MIN_STAKE);
        vm.stopPrank();
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotOwner.selector, NODE, stranger));
        registry.withdraw(NODE);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotOwner.selector, NODE, stranger));
        registry.cancelUnbond(NODE);
    }

    function test_leavingUnbondsAllAndCanBeUndone() public {
        vm.startPrank(provider);
        registry.leave(NODE);
        Registry.Node memory n = registry.node(NODE);
        vm.assertEq(n.status, 3, "left");
        vm.assertEq(n.stake, 0, "stake");
        vm.assertEq(n.unbonding, 3 * MIN_STAKE, "unbonding");
        vm.assertEq(registry.activeContainerOwner(NODE), address(0), "takes no leases");
        vm.expectRevert(abi.encodeWithSelector(Registry.NotServing.selector, NODE));
        registry.leave(NODE);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotServing.selector, NODE));
        registry.addStake(NODE, 1);
        registry.cancelUnbond(NODE);
        n = registry.node(NODE);
        vm.assertEq(n.status, 1, "back");
        vm.assertEq(n.stake, 3 * MIN_STAKE, "stake back");
        vm.expectRevert(abi.encodeWithSelector(Registry.NothingToTake.selector, NODE));
        registry.cancelUnbond(NODE);
        vm.stopPrank();
    }

    function test_whoLeftBelowTheMinimumComesBackJailed() public {
        vm.prank(provider);
        registry.leave(NODE);
        slashBy(2 * MIN_STAKE + 1, EVIDENCE);
        vm.assertEq(registry.node(NODE).status, 3, "leaving stays leaving");
        vm.prank(provider);
        registry.cancelUnbond(NODE);
        vm.assertEq(registry.node(NODE).status, 2, "jailed");
    }

    // ---- slashing ----

    function test_slashTakesRewardsThenStakeThenUnbonding() public {
        vm.prank(rewarder);
        registry.creditReward(NODE, 100);
        vm.prank(provider);
        registry.requestUnbond(NODE, MIN_STAKE);

        vm.expectEmit(address(registry));
        emit Registry.NodeSlashed(NODE, 60, 0, 0, bytes32(uint256(1)));
        vm.assertEq(slashBy(60, bytes32(uint256(1))), 60, "from rewards");
        vm.expectEmit(address(registry));
        emit Registry.NodeSlashed(NODE, 40, 2 * MIN_STAKE, 5, bytes32(uint256(2)));
        vm.assertEq(slashBy(2 * MIN_STAKE + 45, bytes32(uint256(2))), 2 * MIN_STAKE + 45, "from all three");
        Registry.Node memory n = registry.node(NODE);
        vm.assertEq(n.rewards, 0, "rewards");
        vm.assertEq(n.stake, 0, "stake");
        vm.assertEq(n.unbonding, MIN_STAKE - 5, "unbonding");
        vm.assertEq(n.status, 2, "jailed");
        vm.assertEq(slashBy(type(uint128).max, bytes32(uint256(3))), MIN_STAKE - 5, "never more than there is");
        vm.assertEq(slashBy(1, bytes32(uint256(4))), 0, "nothing left");
        registry.collectPenalties();
        vm.assertEq(token.balanceOf(penaltyPool), 3 * MIN_STAKE + 100, "to the pool");
        vm.assertEq(token.balanceOf(address(registry)), 0, "conserved");
    }

    function test_theSameEvidenceServesOnce() public {
        slashBy(1, EVIDENCE);
        vm.prank(slasher);
        vm.expectRevert(abi.encodeWithSelector(Registry.EvidenceUsed.selector, EVIDENCE));
        registry.slash(NODE, 1, EVIDENCE);
        vm.prank(slasher);
        vm.expectRevert(abi.encodeWithSelector(Registry.EvidenceUsed.selector, bytes32(0)));
        registry.slash(NODE, 1, 0);
        join(OTHER);
        vm.prank(slasher);
        registry.slash(OTHER, 1, EVIDENCE);
    }

    function test_onlyTheSlasherSlashesAndOnlyNodes() public {
        refusedTo(provider, registry.SLASHER_ROLE());
        registry.slash(NODE, 1, EVIDENCE);
        refusedTo(admin, registry.SLASHER_ROLE());
        registry.slash(NODE, 1, EVIDENCE);
        vm.prank(slasher);
        vm.expectRevert(abi.encodeWithSelector(Registry.UnknownNode.selector, OTHER));
        registry.slash(OTHER, 1, EVIDENCE);
        vm.prank(slasher);
        vm.expectRevert(Registry.ZeroAmount.selector);
        registry.slash(NODE, 0, EVIDENCE);
    }

    function test_belowTheMinimumIsJailUntilToppedUp() public {
        slashBy(2 * MIN_STAKE, bytes32(uint256(1)));
        vm.assertEq(registry.node(NODE).status, 1, "the minimum is enough");
        vm.expectEmit(address(registry));
        emit Registry.NodeJailed(NODE, MIN_STAKE - 7, MIN_STAKE);
        slashBy(7, bytes32(uint256(2)));
        vm.assertEq(registry.node(NODE).status, 2, "jailed");
        vm.assertEq(registry.activeContainerOwner(NODE), address(0), "takes no leases");
        vm.prank(consumer);
        vm.expectRevert();
        escrow.open(params(0, 1e18));

        vm.prank(provider);
        registry.addStake(NODE, 6);
        vm.assertEq(registry.node(NODE).status, 2, "one short");
        vm.expectEmit(address(registry));
        emit Registry.NodeReinstated(NODE, MIN_STAKE);
        vm.prank(stranger);
        registry.addStake(NODE, 1);
        vm.assertEq(registry.node(NODE).status, 1, "free");
    }

    function test_aJailedNodeMayLeaveAndGetsItsRestBack() public {
        slashBy(3 * MIN_STAKE - 5, EVIDENCE);
        vm.startPrank(provider);
        vm.expectRevert();
        registry.requestUnbond(NODE, 1);
        registry.leave(NODE);
        vm.warp(START + UNBONDING);
        uint256 before = token.balanceOf(provider);
        registry.withdraw(NODE);
        vm.stopPrank();
        vm.assertEq(token.balanceOf(provider) - before, 5, "rest");
    }

    // ---- rewards ----

    function test_rewardsAreTheOwnersToClaimOnce() public {
        vm.prank(rewarder);
        registry.creditReward(NODE, 70);
        vm.prank(rewarder);
        registry.creditReward(NODE, 30);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotOwner.selector, NODE, stranger));
        registry.claimReward(NODE);
        uint256 before = token.balanceOf(provider);
        vm.startPrank(provider);
        registry.claimReward(NODE);
        vm.assertEq(token.balanceOf(provider) - before, 100, "claimed");
        vm.expectRevert(abi.encodeWithSelector(Registry.NothingToTake.selector, NODE));
        registry.claimReward(NODE);
        vm.stopPrank();
        refusedTo(stranger, registry.REWARDER_ROLE());
        registry.creditReward(NODE, 1);
        vm.prank(rewarder);
        vm.expectRevert(abi.encodeWithSelector(Registry.UnknownNode.selector, OTHER));
        registry.creditReward(OTHER, 1);
        vm.prank(rewarder);
        vm.expectRevert(Registry.ZeroAmount.selector);
        registry.creditReward(NODE, 0);
    }

    // ---- the governor ----

    function test_pausingStopsWhatComesInAndNothingThatGoesOut() public {
        vm.prank(rewarder);
        registry.creditReward(NODE, 5);
        vm.prank(admin);
        registry.pause();
        vm.startPrank(provider);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        registry.register(1, OTHER, "", 0, MIN_STAKE);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        registry.registerWithPermit(1, OTHER, "", 0, MIN_STAKE, START, 27, 0, 0);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        registry.addStake(NODE, 1);
        vm.stopPrank();
        vm.prank(rewarder);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        registry.creditReward(NODE, 1);

        slashBy(1, EVIDENCE);
        vm.startPrank(provider);
        registry.update(NODE, "x", 0);
        registry.claimReward(NODE);
        registry.requestUnbond(NODE, 1);
        registry.cancelUnbond(NODE);
        registry.leave(NODE);
        vm.warp(START + UNBONDING);
        registry.withdraw(NODE);
        vm.stopPrank();
        registry.collectPenalties();
        vm.assertEq(token.balanceOf(address(registry)), 0, "all is out");
        vm.prank(admin);
        registry.unpause();
        vm.prank(provider);
        registry.register(1, OTHER, "", 0, MIN_STAKE);
    }

    function test_parametersAreTheGovernorsAndBounded() public {
        bytes32 role = registry.GOVERNOR_ROLE();
        refusedTo(stranger, role);
        registry.setMinStake(1, 1);
        refusedTo(stranger, role);
        registry.setUnbondingPeriod(1);
        refusedTo(stranger, role);
        registry.setPenaltyPool(stranger);
        refusedTo(stranger, role);
        registry.pause();
        refusedTo(stranger, role);
        registry.unpause();
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(Registry.UnknownKind.selector, 5));
        registry.setMinStake(5, 1);
        vm.expectRevert(Registry.OutOfBounds.selector);
        registry.setUnbondingPeriod(0);
        vm.expectRevert(Registry.OutOfBounds.selector);
        registry.setUnbondingPeriod(365 days + 1);
        vm.expectRevert(Registry.BadAddress.selector);
        registry.setPenaltyPool(address(0));
        vm.expectRevert(Registry.BadAddress.selector);
        registry.setPenaltyPool(address(registry));
        registry.setMinStake(2, 77);
        registry.setUnbondingPeriod(365 days);
        registry.setPenaltyPool(stranger);
        vm.stopPrank();
        vm.assertEq(registry.minStake(2), 77, "stake");
        vm.assertEq(registry.unbondingPeriod(), 365 days, "period");
        vm.assertEq(registry.penaltyPool(), stranger, "pool");
        vm.expectRevert(Registry.BadAddress.selector);
        new Registry(address(0), admin, [MIN_STAKE, 1, 1, 1], 1, penaltyPool);
        vm.expectRevert(Registry.BadAddress.selector);
        new Registry(address(token), address(0), [MIN_STAKE, 1, 1, 1], 1, penaltyPool);
    }

    function test_aHigherMinimumJailsNobodyByItself() public {
        vm.prank(admin);
        registry.setMinStake(1, 4 * MIN_STAKE);
        vm.assertEq(registry.node(NODE).status, 1, "still active");
        slashBy(1, EVIDENCE);
        vm.assertEq(registry.node(NODE).status, 2, "at the next look");
    }

    function test_aKindWithoutAMinimumRegistersForNothing() public {
        vm.prank(admin);
        registry.setMinStake(3, 0);
        vm.startPrank(stranger);
        registry.register(3, OTHER, "", 0, 0);
        vm.assertEq(registry.node(OTHER).status, 1, "active");
        registry.leave(OTHER);
        vm.expectRevert(abi.encodeWithSelector(Registry.NothingToTake.selector, OTHER));
        registry.withdraw(OTHER);
        registry.register(3, OTHER, "", 0, 5);
        vm.stopPrank();
        vm.assertEq(registry.node(OTHER).stake, 5, "stake is welcome all the same");
    }

    function testFuzz_slashConservesAndNeverTakesMore(uint128 reward, uint128 unbond, uint128 amount) public {
        reward = uint128(bound(reward, 1, 100_000e18));
        unbond = uint128(bound(unbond, 1, 2 * MIN_STAKE));
        amount = uint128(bound(amount, 1, 4 * MIN_STAKE + reward));
        vm.prank(rewarder);
        registry.creditReward(NODE, reward);
        vm.prank(provider);
        registry.requestUnbond(NODE, unbond);
        uint256 held = token.balanceOf(address(registry));
        uint128 taken = slashBy(amount, EVIDENCE);
        vm.assertEq(taken, amount < held ? amount : held, "taken");
        Registry.Node memory n = registry.node(NODE);
        vm.assertEq(uint256(n.rewards) + n.stake + n.unbonding, held - taken, "what is left");
        vm.assertEq(token.balanceOf(address(registry)), held, "held, until it is collected");
        vm.assertEq(registry.penalties(), taken, "for the pool");
        if (n.stake != 3 * MIN_STAKE - unbond) vm.assertEq(n.rewards, 0, "rewards go first");
        if (n.unbonding != unbond) vm.assertEq(n.stake, 0, "stake goes before what is unbonding");
        vm.assertEq(n.status, n.stake < MIN_STAKE ? 2 : 1, "status");
    }

    function slashBy(uint128 amount, bytes32 evidence) private returns (uint128) {
        vm.prank(slasher);
        return registry.slash(NODE, amount, evidence);
    }

    /// The next call comes from `who`, and is refused for want of a role.
    function refusedTo(address who, bytes32 role) private {
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, who, role));
        vm.prank(who);
    }

    // ---- apps ----

    function test_anAppIsNamedByItsNameAlone() public {
        bytes32 app = registry.appId(APP);
        vm.assertEq(app, bytes32(bytes8("must-app")) | (keccak256(bytes(APP)) >> 64), "as it is told");
        uint256 before = token.balanceOf(provider);
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.BelowMinStake.selector, MIN_STAKE / 8 - 1, MIN_STAKE / 8));
        registry.register(4, app, APP, EVIDENCE, MIN_STAKE / 8 - 1);
        vm.expectEmit(address(registry));
        emit Registry.NodeRegistered(app, 4, provider, APP, EVIDENCE, MIN_STAKE / 8);
        registry.register(4, app, APP, EVIDENCE, MIN_STAKE / 8);
        vm.stopPrank();
        Registry.Node memory n = registry.node(app);
        vm.assertEq(n.owner, provider, "owner");
        vm.assertEq(n.kind, 4, "kind");
        vm.assertEq(n.stake, MIN_STAKE / 8, "stake");
        vm.assertEq(n.fingerprint, EVIDENCE, "what is published");
        vm.assertEq(before - token.balanceOf(provider), MIN_STAKE / 8, "paid");
        vm.assertEq(registry.nodeCount(4), 1, "listed");
        vm.assertEq(registry.activeContainerOwner(app), address(0), "no Container");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.KeyTaken.selector, app));
        registry.register(4, app, APP, EVIDENCE, MIN_STAKE);
    }

    function test_appsAndNodesNeverMeetUnderOneKey(string calldata name, bytes24 rest, uint8 kind) public {
        vm.assume(bytes(name).length <= 256);
        bytes32 app = registry.appId(name);
        bytes32 tagged = bytes32(bytes8("must-app")) | (bytes32(rest) >> 64);
        kind = uint8(bound(kind, 1, 3));
        vm.startPrank(provider);
        // A node's key never begins as an app's does, so nobody takes an app's name as a node.
        vm.expectRevert(abi.encodeWithSelector(Registry.WrongKey.selector, app));
        registry.register(kind, app, name, 0, MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(Registry.WrongKey.selector, tagged));
        registry.register(kind, tagged, name, 0, MIN_STAKE);
        // An app's key is its name's, and no other.
        vm.expectRevert(abi.encodeWithSelector(Registry.WrongKey.selector, OTHER));
        registry.register(4, OTHER, name, 0, MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(Registry.WrongKey.selector, app));
        registry.register(4, app, string.concat(name, "x"), 0, MIN_STAKE);
        registry.register(4, app, name, 0, MIN_STAKE);
        vm.stopPrank();
    }

    function test_anAppsOwnerChangesWhatIsPublishedAndNotItsName() public {
        bytes32 app = addApp();
        vm.startPrank(provider);
        vm.expectRevert(abi.encodeWithSelector(Registry.WrongKey.selector, app));
        registry.update(app, "another", EVIDENCE);
        vm.expectEmit(address(registry));
        emit Registry.NodeUpdated(app, APP, OTHER);
        registry.update(app, APP, OTHER);
        vm.stopPrank();
        vm.assertEq(registry.node(app).fingerprint, OTHER, "changed");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Registry.NotOwner.selector, app, stranger));
        registry.update(app, APP, EVIDENCE);
    }

    function test_anAppsStakeLeavesAndIsTakenAsANodesIs() public {
        bytes32 app = addApp();
        slashApp(app, 1);
        vm.assertEq(registry.node(app).status, 2, "below the least");
        vm.startPrank(provider);
        registry.addStake(app, 1);
        vm.assertEq(registry.node(app).status, 1, "whole again");
        registry.leave(app);
        vm.assertEq(registry.node(app).status, 3, "leaving");
        vm.expectRevert(abi.encodeWithSelector(Registry.Unbonding.selector, START + UNBONDING));
        registry.withdraw(app);
        vm.stopPrank();
        vm.warp(START + UNBONDING);
        uint256 before = token.balanceOf(provider);
        vm.startPrank(provider);
        registry.withdraw(app);
        vm.assertEq(token.balanceOf(provider) - before, MIN_STAKE / 8, "all of it");
        // The name stays its owner's.
        registry.register(4, app, APP, OTHER, MIN_STAKE / 8);
        vm.stopPrank();
        vm.assertEq(registry.nodeCount(4), 1, "listed once");
    }

    function addApp() private returns (bytes32 app) {
        app = registry.appId(APP);
        vm.prank(provider);
        registry.register(4, app, APP, EVIDENCE, MIN_STAKE / 8);
    }

    function slashApp(bytes32 app, uint128 amount) private {
        vm.prank(slasher);
        registry.slash(app, amount, EVIDENCE);
    }
}
