// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {EpochRewards} from "../src/EpochRewards.sol";
import {EpochRewardsBase} from "../src/EpochRewardsBase.sol";
import {MerklePath} from "../src/MerklePath.sol";
import {RewardsBase} from "./utils/RewardsBase.sol";
import {Tree} from "./utils/Tree.sol";

/// Claims, vesting and slashes.
contract EpochRewardsTest is RewardsBase {
    function test_aClaimPaysAPartAtOnceAndTheRestVests() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 1000e18);
        bytes32[] memory proof = publish(r, 0);
        uint256 before = token.balanceOf(provider);
        vm.assertEq(rewards.claim(r, proof), 300e18, "at once");
        vm.assertEq(token.balanceOf(provider) - before, 300e18, "paid");
        vm.expectRevert(EpochRewardsBase.NothingToClaim.selector);
        rewards.claim(r, proof);
        uint256 from = firstStep();
        vm.warp(from + VESTING / 2);
        vm.assertEq(releasable(r), 350e18, "half has vested");
        rewards.release(1, NODE, provider);
        vm.expectRevert(EpochRewardsBase.NothingToClaim.selector);
        rewards.release(1, NODE, provider);
        vm.warp(from + VESTING);
        rewards.release(1, NODE, provider);
        vm.assertEq(token.balanceOf(provider) - before, 1000e18, "all of it");
        vm.warp(from + 10 * VESTING);
        vm.expectRevert(EpochRewardsBase.NothingToClaim.selector);
        rewards.release(1, NODE, provider);
    }

    function test_nothingIsClaimedFromAPendingRoot() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 1000e18);
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(r), 5);
        EpochRewardsBase.Posted memory p = postNext(root, 0);
        vm.expectRevert(EpochRewardsBase.BadProof.selector);
        rewards.claim(r, proof);
        finalize(p);
        r.cumulative += 1;
        vm.expectRevert(EpochRewardsBase.BadProof.selector);
        rewards.claim(r, proof);
        r.cumulative -= 1;
        r.account = stranger;
        vm.expectRevert(EpochRewardsBase.BadProof.selector);
        rewards.claim(r, proof);
        r.account = provider;
        rewards.claim(r, proof);
    }

    function test_aRootThatPromisesTooMuchGetsNoMoreThanIsGranted() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 100 * EMISSION);
        bytes32[] memory proof = publish(r, 0);
        vm.expectRevert();
        rewards.claim(r, proof);
        vm.assertEq(token.balanceOf(address(rewards)), EMISSION, "untouched");
    }

    /// forge-config: default.fuzz.runs = 32
    function testFuzz_claimingOftenDelaysNothing(uint256 seed) public {
        // Two accounts with the same rewards: one claims each, the other only in the end of each fourth.
        uint128 sum = 0;
        uint256 until = 0;
        for (uint256 i = 0; i < 12; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            sum += uint128(seed % (EMISSION / 4));
            EpochRewardsBase.Reward memory often = reward(1, NODE, provider, sum);
            EpochRewardsBase.Reward memory rare = reward(2, NODE, consumer, sum);
            bytes32[] memory leaves = new bytes32[](2);
            (leaves[0], leaves[1]) = (leafOf(often), leafOf(rare));
            finalize(postNext(Tree.root(leaves), 0));
            vm.warp(block.timestamp + (seed >> 128) % 20 days);
            rewards.claim(often, Tree.proof(leaves, 0));
            if (i % 4 == 3) rewards.claim(rare, Tree.proof(leaves, 1));
            (,, uint128 releasedOften, uint128 readyOften) = rewards.rewardOf(1, NODE, provider);
            (,, uint128 releasedRare, uint128 readyRare) = rewards.rewardOf(2, NODE, consumer);
            vm.assertGe(releasedOften + readyOften, releasedRare + readyRare, "never later");
            until = block.timestamp;
        }
        vm.warp(until + VESTING + VESTING / 64 + 1);
        uint256 before = token.balanceOf(provider);
        rewards.release(1, NODE, provider);
        (uint128 claimed, uint128 vesting,,) = rewards.rewardOf(1, NODE, provider);
        vm.assertEq(token.balanceOf(provider) - before, vesting, "all has vested");
        vm.assertEq(claimed, sum, "claimed");
    }

    /// forge-config: default.fuzz.runs = 8
    function testFuzz_vestingIsTheSumOfItsParts(uint256 seed) public {
        // Against a model that keeps each part by itself.
        uint256[] memory amounts = new uint256[](90);
        uint256[] memory starts = new uint256[](90);
        uint128 sum = 0;
        for (uint256 i = 0; i < 90; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint128 part = 10 * uint128(1 + seed % 1e18);
            sum += part;
            EpochRewardsBase.Reward memory r = reward(1, NODE, provider, sum);
            bytes32[] memory proof = publish(r, 0);
            vm.warp(block.timestamp + (seed >> 128) % 3 days);
            rewards.claim(r, proof);
            amounts[i] = uint256(part) * 7 / 10;
            starts[i] = firstStep();
            if (i % 16 != 15) continue;
            vm.warp(block.timestamp + 1 days);
            uint256 expected = 0;
            for (uint256 k = 0; k <= i; ++k) {
                uint256 age = block.timestamp > starts[k] ? block.timestamp - starts[k] : 0;
                expected += amounts[k] * (age < VESTING ? age : VESTING);
            }
            (,, uint128 released, uint128 ready) = rewards.rewardOf(1, NODE, provider);
            vm.assertEq(uint256(released) + ready, expected / VESTING, "the sum of the parts");
            if (i % 32 == 31) rewards.release(1, NODE, provider);
        }
    }

    function testFuzz_pathsAreThoseOfOpenZeppelin(bytes32[] calldata siblings, bytes32 leaf) public pure {
        vm.assertEq(MerklePath.root(siblings, leaf), MerkleProof.processProofCalldata(siblings, leaf), "the same root");
    }

    // ---- slashes ----

    function test_aSlashTakesStakeAndJails() public {
        EpochRewardsBase.Slash memory s = slashOf(2500e18, "e");
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(s), 3);
        EpochRewardsBase.Posted memory p = postNext(keccak256("r"), root);
        vm.expectRevert(EpochRewardsBase.BadProof.selector);
        rewards.slash(s, proof);
        finalize(p);
        vm.assertEq(rewards.slash(s, proof), 2500e18, "taken");
        vm.assertEq(registry.node(NODE).stake, 500e18, "stake");
        vm.assertEq(registry.node(NODE).status, 2, "jailed");
        vm.expectRevert();
        rewards.slash(s, proof);
        s.amount -= 1;
        vm.expectRevert(EpochRewardsBase.BadProof.selector);
        rewards.slash(s, proof);
        registry.collectPenalties();
        vm.assertEq(token.balanceOf(penaltyPool), 2500e18, "to the pool");
    }

    function test_rewardsAreTakenFirst() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 400e18);
        rewards.claim(r, publish(r, 0));
        r.cumulative = 600e18;
        EpochRewardsBase.Slash memory s = slashOf(1000e18, "e");
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(s), 3);
        bytes32[] memory rewardProof = publish(r, root);
        // 200 unclaimed, 280 that vest and none of which is released, and the rest of the stake.
        vm.assertEq(rewards.slashWithReward(s, proof, r, rewardProof), 1000e18, "taken");
        vm.assertEq(token.balanceOf(penaltyPool), 480e18, "out of rewards");
        vm.assertEq(registry.node(NODE).stake, 3000e18 - 520e18, "out of the stake");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadySlashed.selector, s.evidence));
        rewards.slashWithReward(s, proof, r, rewardProof);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadySlashed.selector, s.evidence));
        rewards.slash(s, proof);
        vm.expectRevert(EpochRewardsBase.NothingToClaim.selector);
        rewards.claim(r, rewardProof);
        vm.warp(block.timestamp + 2 * VESTING);
        vm.expectRevert(EpochRewardsBase.NothingToClaim.selector);
        rewards.release(1, NODE, provider);
        // What comes after is paid and vests as ever.
        r.cumulative = 700e18;
        vm.assertEq(rewards.claim(r, publish(r, 0)), 30e18, "at once");
        vm.warp(block.timestamp + 2 * VESTING);
        vm.assertEq(rewards.release(1, NODE, provider), 70e18, "vested");
    }

    function test_rewardsAloneCanSettleASlashOnce() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 400e18);
        EpochRewardsBase.Slash memory s = slashOf(100e18, "e");
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(s), 3);
        bytes32[] memory rewardProof = publish(r, root);
        vm.assertEq(rewards.slashWithReward(s, proof, r, rewardProof), 100e18, "taken");
        vm.assertEq(registry.node(NODE).stake, 3000e18, "the stake is whole");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadySlashed.selector, s.evidence));
        rewards.slash(s, proof);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadySlashed.selector, s.evidence));
        rewards.slashWithReward(s, proof, r, rewardProof);
        vm.assertEq(rewards.claim(r, rewardProof), 90e18, "30 % of what is left");
    }

    function test_whatTheStakeDidNotCoverComesOutOfRewards() public {
        EpochRewardsBase.Reward memory r = reward(1, NODE, provider, 900e18);
        EpochRewardsBase.Slash memory s = slashOf(3500e18, "e");
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(s), 3);
        bytes32[] memory rewardProof = publish(r, root);
        vm.assertEq(rewards.slash(s, proof), 3000e18, "the whole stake");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadySlashed.selector, s.evidence));
        rewards.slash(s, proof);
        vm.assertEq(rewards.slashWithReward(s, proof, r, rewardProof), 500e18, "the rest");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadySlashed.selector, s.evidence));
        rewards.slashWithReward(s, proof, r, rewardProof);
    }

    function test_onlyTheNodesOwnRewardIsTaken() public {
        EpochRewardsBase.Reward memory r = reward(1, keccak256("another"), consumer, 400e18);
        EpochRewardsBase.Slash memory s = slashOf(100e18, "e");
        (bytes32 root, bytes32[] memory proof) = deep(leafOf(s), 3);
        bytes32[] memory rewardProof = publish(r, root);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongNode.selector, r.key));
        rewards.slashWithReward(s, proof, r, rewardProof);
        // A licence owner's key may equal a node's by ill will.
        r = reward(4, NODE, consumer, 400e18);
        s = slashOf(100e18, "f");
        (root, proof) = deep(leafOf(s), 3);
        rewardProof = publish(r, root);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongNode.selector, r.key));
        rewards.slashWithReward(s, proof, r, rewardProof);
    }

    function test_badParametersAreRefused() public {
        for (uint256 i = 0; i < 9; ++i) {
            EpochRewardsBase.Config memory c = config();
            if (i == 0) c.epochSeconds = 0;
            if (i == 1) c.halvingEpochs = 0;
            if (i == 2) c.ringSize = 1;
            if (i == 3) c.disputeWindow = 31 days;
            if (i == 4) c.resolveWindow = 0;
            if (i == 5) c.resetAfter = c.disputeWindow - 1;
            if (i == 6) c.disputeBond = 0;
            if (i == 7) c.immediateBps = 10_001;
            if (i == 8) c.vestingPeriod = 0;
            vm.expectRevert(EpochRewardsBase.OutOfBounds.selector);
            new EpochRewards(c);
        }
    }

    // ---- helpers ----

    function slashOf(uint128 amount, bytes32 evidence) private view returns (EpochRewardsBase.Slash memory) {
        return EpochRewardsBase.Slash({
            lastEpoch: tip.outcome.lastEpoch + 1, nodeKey: NODE, amount: amount, evidence: evidence
        });
    }

    /// When what is claimed now begins to vest.
    function firstStep() private view returns (uint256) {
        uint256 width = (VESTING + 63) / 64;
        uint256 since = block.timestamp - rewards.deployedAt();
        return rewards.deployedAt() + (since + width - 1) / width * width;
    }

    function releasable(EpochRewardsBase.Reward memory r) private view returns (uint256 ready) {
        (,,, ready) = rewards.rewardOf(r.kind, r.key, r.account);
    }

    function publish(EpochRewardsBase.Reward memory r, bytes32 slashRoot) private returns (bytes32[] memory proof) {
        bytes32 root;
        (root, proof) = deep(leafOf(r), 5);
        finalize(postNext(root, slashRoot));
    }
}
