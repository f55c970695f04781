// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LeaseEscrow} from "../src/LeaseEscrow.sol";
import {LeaseEscrowBase} from "../src/LeaseEscrowBase.sol";
import {Base} from "./utils/Base.sol";

/// A voucher counts for one lease, on one chain, in one contract, as it was signed.
contract VoucherTest is Base {
    uint128 private constant DEPOSIT = 100e18;
    uint256 private constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    bytes32 private id;

    function setUp() public override {
        super.setUp();
        id = openLease(0, DEPOSIT);
    }

    function test_theDigestIsTheStandardsOwn() public view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Muster LeaseEscrow"),
                keccak256("1"),
                block.chainid,
                address(escrow)
            )
        );
        bytes32 inner = keccak256(
            abi.encode(
                keccak256("Voucher(bytes32 lease,uint128 amount,uint64 asOf)"), id, uint256(1e18), uint256(START)
            )
        );
        bytes32 expected = keccak256(abi.encodePacked("\x19\x01", domain, inner));
        vm.assertEq(escrow.voucherDigest(id, 1e18, uint64(START)), expected, "digest");
    }

    function test_noReplayAcrossLeases() public {
        bytes32 other = openLease(bytes32(uint256(1)), DEPOSIT);
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, 1e18, 7);
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(other, 1e18, 7, r, vs);
        escrow.redeem(id, 1e18, 7, r, vs);
    }

    function test_noReplayAcrossChains() public {
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, 1e18, 7);
        uint256 here = block.chainid;
        vm.chainId(here + 1);
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, 1e18, 7, r, vs);
        vm.chainId(here);
        escrow.redeem(id, 1e18, 7, r, vs);
    }

    function test_noReplayAcrossContracts() public {
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, 1e18, 7);
        LeaseEscrow first = escrow;
        escrow = newEscrow();
        vm.prank(consumer);
        token.approve(address(escrow), type(uint256).max);
        bytes32 twin = openLease(0, DEPOSIT);
        vm.assertTrue(twin != id, "another contract's lease is another one");
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(twin, 1e18, 7, r, vs);
        // Even for the very same lease id, the other contract's domain differs.
        bytes32 foreign = first.voucherDigest(twin, 1e18, 7);
        (r, vs) = compact(SESSION, foreign);
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(twin, 1e18, 7, r, vs);
    }

    function test_onlyTheSessionKeySigns() public {
        (bytes32 r, bytes32 vs) = signBy(0xbad, id, 1e18, 7);
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, 1e18, 7, r, vs);
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, 1e18, 7, 0, 0);
    }

    /// Every ECDSA signature has a twin, (r, n - s) with the other parity, which an unwary contract takes for a second
    /// one. EIP-2098 has no room for most of them; the twin is refused in either half of the bit that is left.
    function test_aSignaturesTwinIsRefused() public {
        bytes32 digest = escrow.voucherDigest(id, 1e18, 7);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SESSION, digest);
        uint256 high = ORDER - uint256(s);
        vm.assertEq(ecrecover(digest, 55 - v, r, bytes32(high)), vm.addr(SESSION), "it is a twin");
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, 1e18, 7, r, bytes32(high));
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, 1e18, 7, r, bytes32(high ^ (1 << 255)));
        // The lowest of the high ones does fit, and any recovered address would be wrong anyway.
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, 1e18, 7, r, bytes32(ORDER / 2 + 1));
    }

    function testFuzz_changedVouchersAreRefused(uint128 amount, uint64 asOf, uint8 what, uint256 flip) public {
        amount = uint128(bound(amount, 1, DEPOSIT));
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, amount, asOf);
        uint256 snapshot = vm.snapshotState();
        escrow.redeem(id, amount, asOf, r, vs);
        vm.assertEq(escrow.lease(id).redeemed, amount, "unchanged, it counts");
        vm.revertToState(snapshot);

        if (what % 4 == 0) {
            amount = uint128(bound(flip, 1, DEPOSIT) == amount ? amount % DEPOSIT + 1 : bound(flip, 1, DEPOSIT));
        } else if (what % 4 == 1) {
            asOf ^= uint64(1 << (flip % 64));
        } else if (what % 4 == 2) {
            r ^= bytes32(1 << (flip % 256));
        } else {
            vs ^= bytes32(1 << (flip % 256));
        }
        vm.expectRevert(LeaseEscrowBase.BadSignature.selector);
        escrow.redeem(id, amount, asOf, r, vs);
    }
}
