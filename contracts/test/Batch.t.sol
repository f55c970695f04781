// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LeaseEscrow} from "../src/LeaseEscrow.sol";
import {LeaseEscrowBase} from "../src/LeaseEscrowBase.sol";
import {Base} from "./utils/Base.sol";
import {Vm} from "./utils/Vm.sol";

/// Batches do what single calls do, and skip what is bad.
contract BatchTest is Base {
    uint128 private constant DEPOSIT = 100e18;

    function test_oneOfEachBadEntryIsSkippedAndTheGoodOnesPaid() public {
        bytes32[] memory ids = openMany(8);
        redeem(ids[2], 50e18);
        vm.prank(provider);
        escrow.closeByContainer(ids[3]);
        vm.prank(consumer);
        escrow.closeByConsumer(ids[4]);
        vm.warp(START + WINDOW);
        (bytes32 r, bytes32 vs) = signBy(0xbad, ids[5], 5e18, 7);
        bytes memory packed =
            bytes.concat(entry(ids[0], 10e18), entry(NODE, 1e18), entry(ids[1], DEPOSIT + 1), entry(ids[2], 40e18));
        packed = bytes.concat(packed, entry(ids[2], 50e18), entry(ids[3], 1e18), entry(ids[4], 1e18));
        packed = bytes.concat(
            packed, abi.encodePacked(ids[5], uint128(5e18), uint64(7), r, vs), bare(ids[6]), entry(ids[7], 20e18)
        );
        uint256 fees = escrow.networkFees();
        vm.recordLogs();
        escrow.redeemBatch(packed);
        uint8[10] memory expected = [0, 1, 5, 4, 4, 2, 3, 6, 6, 0];
        checkReasons(packed, expected);
        vm.assertEq(escrow.networkFees() - fees, 6e18, "fees of the good ones");
        vm.assertEq(escrow.lease(ids[0]).redeemed, 10e18, "first");
        vm.assertEq(escrow.lease(ids[7]).redeemed, 20e18, "last");
        vm.assertEq(escrow.lease(ids[2]).redeemed, 50e18, "unchanged");
        vm.assertEq(escrow.lease(ids[6]).redeemed, 0, "nothing without a voucher");
    }

    function test_aLeaseMayComeTwiceInABatch() public {
        bytes32 id = openLease(0, DEPOSIT);
        escrow.redeemBatch(bytes.concat(entry(id, 10e18), entry(id, 10e18), entry(id, 30e18), entry(id, 20e18)));
        vm.assertEq(escrow.lease(id).redeemed, 30e18, "the highest");
        vm.assertEq(escrow.networkFees(), 6e18, "paid once");
        vm.assertEq(owed(provider), 24e18, "paid once");
    }

    function test_batchesOfTheWrongLengthAreRefused() public {
        bytes32 id = openLease(0, DEPOSIT);
        uint256[3] memory lengths = [uint256(0), 119, 121];
        for (uint256 i = 0; i < lengths.length; ++i) {
            bytes memory packed = bytes.concat(entry(id, 1e18), entry(id, 2e18));
            uint256 length = lengths[i];
            assembly ("memory-safe") {
                mstore(packed, length)
            }
            vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.BadBatch.selector, length));
            escrow.redeemBatch(packed);
            vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.BadBatch.selector, length));
            escrow.settleBatch(packed);
        }
    }

    function test_settlePaysAndClosesAndSkipsWhatIsBad() public {
        bytes32[] memory ids = openMany(6);
        bytes32 foreign = foreignLease();
        redeem(ids[2], 50e18);
        redeem(ids[3], 50e18);
        vm.prank(provider);
        escrow.closeByContainer(ids[4]);
        bytes memory packed =
            bytes.concat(entry(ids[0], 10e18), bare(ids[1]), entry(ids[2], 50e18), entry(ids[3], 40e18));
        packed = bytes.concat(packed, entry(ids[4], 1e18), entry(foreign, 1e18), entry(NODE, 1e18));
        packed = bytes.concat(
            packed,
            entry(ids[5], DEPOSIT + 1),
            abi.encodePacked(ids[5], uint128(1e18), uint64(7), bytes32(0), bytes32(0)),
            entry(ids[0], 20e18)
        );
        uint256 before = token.balanceOf(consumer);
        vm.recordLogs();
        settleBy(provider, packed);
        checkReasons(packed, [0, 0, 0, 4, 2, 7, 1, 5, 6, 2]);
        vm.assertEq(statusOf(ids[0]), 3, "paid and closed");
        vm.assertEq(escrow.lease(ids[0]).redeemed, 10e18, "once");
        vm.assertEq(statusOf(ids[1]), 3, "closed without a voucher");
        vm.assertEq(statusOf(ids[2]), 3, "redeemed before, closed now");
        vm.assertEq(statusOf(ids[3]), 1, "an outdated voucher closes nothing");
        vm.assertEq(statusOf(foreign), 1, "another payee's stays");
        vm.assertEq(statusOf(ids[5]), 1, "a bad voucher closes nothing");
        vm.assertEq(token.balanceOf(consumer) - before, 90e18 + 100e18 + 50e18, "refunds");
    }

    function test_settleAfterTheLastRedemptionOnlyCloses() public {
        bytes32[] memory ids = openMany(2);
        redeem(ids[0], 50e18);
        redeem(ids[1], 50e18);
        uint256 fees = escrow.networkFees();
        bytes memory packed = bytes.concat(bare(ids[0]), entry(ids[1], 50e18));
        vm.recordLogs();
        settleBy(provider, packed);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            vm.assertTrue(logs[i].topics[0] != LeaseEscrowBase.VoucherRedeemed.selector, "nothing is redeemed again");
        }
        vm.assertEq(statusOf(ids[0]), 3, "closed without a voucher");
        vm.assertEq(statusOf(ids[1]), 3, "closed with the one that was redeemed");
        vm.assertEq(escrow.networkFees(), fees, "no fee twice");
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - 100e18, "refunds");
    }

    function test_settleRefundsEachConsumerItsOwn() public {
        bytes32 a = openLease(bytes32(uint256(1)), 10e18);
        vm.prank(stranger);
        bytes32 b = escrow.open(params(0, 20e18));
        bytes32 c = openLease(bytes32(uint256(2)), 30e18);
        settleBy(provider, bytes.concat(entry(a, 1e18), entry(b, 2e18), entry(c, 3e18)));
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - 4e18, "consumer");
        vm.assertEq(token.balanceOf(stranger), 1_000_000e18 - 2e18, "stranger");
        vm.assertEq(token.balanceOf(address(escrow)), 6e18, "what was earned stays");
    }

    function test_anOperatorSettles() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.recordLogs();
        settleBy(stranger, entry(id, 1e18));
        vm.assertEq(statusOf(id), 1, "a stranger's entries are skipped");
        vm.prank(provider);
        escrow.setOperator(stranger, true);
        settleBy(stranger, entry(id, 1e18));
        vm.assertEq(statusOf(id), 3, "an operator's are not");
    }

    function test_settleInTheWindowCountsAndAfterItOnlyCloses() public {
        bytes32[] memory ids = openMany(3);
        vm.startPrank(consumer);
        escrow.closeByConsumer(ids[0]);
        escrow.closeByConsumer(ids[1]);
        escrow.closeByConsumer(ids[2]);
        vm.stopPrank();
        vm.warp(START + WINDOW - 1);
        settleBy(provider, entry(ids[0], 1e18));
        vm.assertEq(escrow.lease(ids[0]).redeemed, 1e18, "in time");
        vm.warp(START + WINDOW);
        settleBy(provider, bytes.concat(entry(ids[1], 1e18), bare(ids[2])));
        vm.assertEq(statusOf(ids[1]), 2, "too late for vouchers");
        vm.assertEq(statusOf(ids[2]), 3, "never too late to close");
    }

    /// A batch leaves the same state as its entries one by one.
    function testFuzz_aBatchIsTheSumOfItsEntries(uint128[5] memory amounts, uint8[5] memory which, bool settle) public {
        bytes32[] memory ids = openMany(3);
        bytes memory packed;
        for (uint256 i = 0; i < 5; ++i) {
            uint128 amount = uint128(bound(amounts[i], 0, DEPOSIT + 1));
            packed = bytes.concat(packed, entry(ids[which[i] % 3], amount));
        }
        uint256 snapshot = vm.snapshotState();
        vm.startPrank(provider);
        settle ? escrow.settleBatch(packed) : escrow.redeemBatch(packed);
        bytes32 together = digest(ids);
        vm.revertToState(snapshot);
        for (uint256 i = 0; i < 5; ++i) {
            bytes memory one = slice(packed, i);
            settle ? escrow.settleBatch(one) : escrow.redeemBatch(one);
        }
        vm.stopPrank();
        vm.assertEq(digest(ids), together, "state");
    }

    /// Noise moves nothing and stops nothing.
    function testFuzz_noiseIsSkipped(bytes32[12] memory noise, uint128 amount) public {
        bytes32 id = openLease(0, DEPOSIT);
        amount = uint128(bound(amount, 1, DEPOSIT));
        bytes memory junk = abi.encodePacked(noise[0], noise[1], noise[2], bytes24(noise[3]));
        bytes memory near = abi.encodePacked(id, noise[4], noise[5], bytes24(noise[6]));
        settleBy(provider, bytes.concat(junk, near, entry(id, amount), junk));
        vm.assertEq(escrow.lease(id).redeemed, amount, "the good one counts");
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - amount, "to the last unit");
    }

    // ---- helpers ----

    function settleBy(address who, bytes memory packed) private {
        vm.prank(who);
        escrow.settleBatch(packed);
    }

    function openMany(uint256 count) private returns (bytes32[] memory ids) {
        ids = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            ids[i] = openLease(keccak256(abi.encode("many", i)), DEPOSIT);
        }
    }

    /// A lease of somebody else's Container.
    function foreignLease() private returns (bytes32) {
        bytes32 key = keccak256("a foreign container");
        vm.prank(stranger);
        registry.register(1, key, "", 0, MIN_STAKE);
        LeaseEscrow.OpenParams memory p = params(keccak256("foreign"), DEPOSIT);
        p.container = key;
        vm.prank(consumer);
        return escrow.open(p);
    }

    /// The recorded events say, in the order of the entries, why each one was skipped (0: it was not).
    function checkReasons(bytes memory packed, uint8[10] memory expected) private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 next = 0;
        for (uint256 i = 0; i < expected.length; ++i) {
            if (expected[i] == 0) continue;
            while (logs[next].topics[0] != LeaseEscrowBase.VoucherSkipped.selector) ++next;
            bytes memory one = slice(packed, i);
            bytes32 id;
            assembly ("memory-safe") {
                id := mload(add(one, 32))
            }
            vm.assertEq(logs[next].topics[1], id, "lease of the skipped entry");
            vm.assertEq(abi.decode(logs[next].data, (uint8)), expected[i], "reason");
            ++next;
        }
        for (; next < logs.length; ++next) {
            vm.assertTrue(logs[next].topics[0] != LeaseEscrowBase.VoucherSkipped.selector, "no other is skipped");
        }
    }

    function slice(bytes memory packed, uint256 index) private pure returns (bytes memory one) {
        one = new bytes(120);
        for (uint256 i = 0; i < 120; ++i) {
            one[i] = packed[index * 120 + i];
        }
    }

    function digest(bytes32[] memory ids) private view returns (bytes32 d) {
        for (uint256 i = 0; i < ids.length; ++i) {
            d = keccak256(abi.encode(d, escrow.lease(ids[i])));
        }
        d = keccak256(abi.encode(d, owed(provider), escrow.networkFees(), token.balanceOf(consumer)));
    }
}
