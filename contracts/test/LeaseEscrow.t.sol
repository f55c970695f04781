// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {LeaseEscrow} from "../src/LeaseEscrow.sol";
import {LeaseEscrowBase} from "../src/LeaseEscrowBase.sol";
import {TokenPull} from "../src/TokenPull.sol";
import {Base} from "./utils/Base.sol";
import {DenyToken, FeeToken, HookToken} from "./utils/Tokens.sol";

contract LeaseEscrowTest is Base {
    uint128 private constant DEPOSIT = 100e18;

    // ---- opening ----

    function test_openRecordsTheLeaseAndTakesTheDeposit() public {
        uint256 before = token.balanceOf(consumer);
        bytes32 expected = keccak256(abi.encode(block.chainid, address(escrow), consumer, bytes32(uint256(1))));
        vm.assertEq(escrow.leaseIdOf(consumer, bytes32(uint256(1))), expected, "id");
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.LeaseOpened(
            expected, consumer, NODE, keccak256("indexer"), vm.addr(SESSION), DEPOSIT, 1e15, 1 days
        );
        bytes32 id = openLease(bytes32(uint256(1)), DEPOSIT);
        LeaseEscrow.Lease memory l = escrow.lease(id);
        vm.assertEq(id, expected, "returned id");
        vm.assertEq(l.consumer, consumer, "consumer");
        vm.assertEq(l.payee, provider, "payee");
        vm.assertEq(l.sessionKey, vm.addr(SESSION), "session key");
        vm.assertEq(l.container, NODE, "container");
        vm.assertEq(l.deposit, DEPOSIT, "deposit");
        vm.assertEq(l.redeemed, 0, "redeemed");
        vm.assertEq(l.ratePerSecond, 1e15, "rate");
        vm.assertEq(l.openedAt, START, "opened");
        vm.assertEq(l.maxSeconds, 1 days, "term");
        vm.assertEq(l.closingAt, 0, "closing");
        vm.assertEq(l.closedAt, 0, "closed");
        vm.assertEq(l.feeBps, FEE_BPS, "fee");
        vm.assertEq(l.status, 1, "status");
        vm.assertEq(before - token.balanceOf(consumer), DEPOSIT, "paid");
        vm.assertEq(token.balanceOf(address(escrow)), DEPOSIT, "held");
    }

    function test_openRefusesWhatIsWrong() public {
        LeaseEscrow.OpenParams memory p = params(0, DEPOSIT);
        vm.startPrank(consumer);
        p.deposit = 0;
        vm.expectRevert(LeaseEscrowBase.ZeroAmount.selector);
        escrow.open(p);
        p = params(0, DEPOSIT);
        p.sessionKey = address(0);
        vm.expectRevert(LeaseEscrowBase.BadAddress.selector);
        escrow.open(p);
        p = params(0, DEPOSIT);
        p.maxSeconds = 0;
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.open(p);
        p.maxSeconds = escrow.MAX_LEASE_SECONDS() + 1;
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.open(p);
        p = params(0, DEPOSIT);
        p.ratePerSecond = uint128(type(uint96).max) + 1;
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.open(p);
        p = params(0, DEPOSIT);
        p.container = keccak256("nobody");
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.ContainerNotActive.selector, p.container));
        escrow.open(p);
        vm.stopPrank();
        vm.prank(provider);
        registry.leave(NODE);
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.ContainerNotActive.selector, NODE));
        escrow.open(params(0, DEPOSIT));
    }

    function test_anIndexerCannotBeLeased() public {
        bytes32 key = keccak256("an indexer");
        vm.prank(provider);
        registry.register(2, key, "", 0, MIN_STAKE);
        LeaseEscrow.OpenParams memory p = params(0, DEPOSIT);
        p.container = key;
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.ContainerNotActive.selector, key));
        escrow.open(p);
    }

    function test_aSaltServesAConsumerOnceAlsoAfterTheEnd() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.LeaseExists.selector, id));
        escrow.open(params(0, DEPOSIT));
        vm.prank(stranger);
        vm.assertTrue(escrow.open(params(0, DEPOSIT)) != id, "another consumer's lease is another one");
        vm.prank(provider);
        escrow.closeByContainer(id);
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.LeaseExists.selector, id));
        escrow.open(params(0, DEPOSIT));
    }

    function test_openWithoutMoneyOrApprovalFails() public {
        address poor = account("poor");
        vm.prank(poor);
        vm.expectRevert();
        escrow.open(params(0, DEPOSIT));
        vm.prank(treasury);
        token.transfer(poor, DEPOSIT);
        vm.prank(poor);
        vm.expectRevert();
        escrow.open(params(0, DEPOSIT));
    }

    function test_openWithPermitNeedsNoApproval() public {
        uint256 key = 0xb0b;
        vm.prank(treasury);
        token.transfer(vm.addr(key), DEPOSIT);
        bytes32 inner = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                vm.addr(key),
                address(escrow),
                uint256(2 * DEPOSIT),
                0,
                START
            )
        );
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner)));
        vm.prank(vm.addr(key));
        bytes32 id = escrow.openWithPermit(params(0, DEPOSIT), 2 * DEPOSIT, START, v, r, s);
        vm.assertEq(escrow.lease(id).consumer, vm.addr(key), "consumer");
        vm.assertEq(token.allowance(vm.addr(key), address(escrow)), DEPOSIT, "the rest of the permit serves later");
    }

    function test_openBatchOpensAllOrNone() public {
        LeaseEscrow.OpenParams[] memory batch = new LeaseEscrow.OpenParams[](3);
        for (uint256 i = 0; i < 3; ++i) {
            batch[i] = params(bytes32(i), uint128((i + 1) * 1e18));
        }
        uint256 before = token.balanceOf(consumer);
        vm.prank(consumer);
        bytes32[] memory ids = escrow.openBatch(batch);
        vm.assertEq(before - token.balanceOf(consumer), 6e18, "one pull for all");
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(ids[i], escrow.leaseIdOf(consumer, bytes32(i)), "id");
            vm.assertEq(escrow.lease(ids[i]).deposit, (i + 1) * 1e18, "deposit");
        }
        batch[0].salt = keccak256("x");
        batch[1].salt = keccak256("y");
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.LeaseExists.selector, ids[2]));
        escrow.openBatch(batch);
        vm.assertEq(statusOf(escrow.leaseIdOf(consumer, keccak256("x"))), 0, "none");
    }

    function test_anybodyTopsUpAnOpenLease() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.LeaseToppedUp(id, stranger, 5, DEPOSIT + 5);
        vm.prank(stranger);
        escrow.topUp(id, 5);
        redeem(id, DEPOSIT + 5);
        vm.startPrank(stranger);
        vm.expectRevert(LeaseEscrowBase.ZeroAmount.selector);
        escrow.topUp(id, 0);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.UnknownLease.selector, NODE));
        escrow.topUp(NODE, 1);
        vm.stopPrank();
        vm.prank(consumer);
        escrow.closeByConsumer(id);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotOpen.selector, id));
        escrow.topUp(id, 1);
    }

    // ---- redeeming ----

    function test_redeemPaysTheDifferenceInTwoParts() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.VoucherRedeemed(id, 10e18, 10e18, 2e18);
        redeem(id, 10e18);
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.VoucherRedeemed(id, 15e18, 5e18, 1e18);
        redeem(id, 15e18);
        vm.assertEq(escrow.lease(id).redeemed, 15e18, "redeemed");
        vm.assertEq(escrow.networkFees(), 3e18, "network");
        vm.assertEq(owed(provider), 12e18, "payee");
        vm.assertEq(token.balanceOf(provider), 1_000_000e18 - 3 * MIN_STAKE, "nothing moves before it is claimed");
    }

    function test_redeemNeverPaysTwiceNorBelowNorAbove() public {
        bytes32 id = openLease(0, DEPOSIT);
        redeem(id, 10e18);
        refuse(id, 10e18, abi.encodeWithSelector(LeaseEscrowBase.BelowRedeemed.selector, 10e18, 10e18));
        refuse(id, 9e18, abi.encodeWithSelector(LeaseEscrowBase.BelowRedeemed.selector, 9e18, 10e18));
        refuse(id, 0, abi.encodeWithSelector(LeaseEscrowBase.BelowRedeemed.selector, 0, 10e18));
        refuse(id, DEPOSIT + 1, abi.encodeWithSelector(LeaseEscrowBase.AboveDeposit.selector, DEPOSIT + 1, DEPOSIT));
        redeem(id, DEPOSIT);
        refuse(id, DEPOSIT, abi.encodeWithSelector(LeaseEscrowBase.BelowRedeemed.selector, DEPOSIT, DEPOSIT));
        refuse(NODE, 1, abi.encodeWithSelector(LeaseEscrowBase.UnknownLease.selector, NODE));
    }

    function test_theFeeIsFrozenWhenALeaseOpens() public {
        bytes32 before = openLease(0, DEPOSIT);
        vm.prank(admin);
        escrow.setTerms(100, 1 days, 1 hours);
        bytes32 later = openLease(bytes32(uint256(1)), DEPOSIT);
        vm.assertEq(escrow.lease(before).feeBps, FEE_BPS, "old");
        vm.assertEq(escrow.lease(later).feeBps, 100, "new");
        redeem(before, 10e18);
        vm.assertEq(escrow.networkFees(), 2e18, "old fee");
        redeem(later, 10e18);
        vm.assertEq(escrow.networkFees(), 2.1e18, "new fee");
        vm.assertEq(escrow.termsOf(before).challengeWindow, WINDOW, "old window");
        vm.assertEq(escrow.termsOf(later).challengeWindow, 1 hours, "new window");
        vm.assertEq(escrow.feeBps(), 100, "current fee");
        vm.assertEq(escrow.serviceFeeDelay(), 1 days, "current delay");
        vm.assertEq(escrow.challengeWindow(), 1 hours, "current window");
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.UnknownLease.selector, NODE));
        escrow.termsOf(NODE);
    }

    /// However a lease is cut into vouchers, the network gets the fee on the sum.
    function testFuzz_theFeeDoesNotDependOnHowOftenIsRedeemed(uint128 deposit, uint128[6] memory cuts, uint16 bps)
        public
    {
        deposit = uint128(bound(deposit, 1, 1_000_000e18));
        bps = uint16(bound(bps, 0, 3000));
        vm.prank(admin);
        escrow.setTerms(bps, DELAY, WINDOW);
        bytes32 id = openLease(0, deposit);
        uint128 redeemed = 0;
        for (uint256 i = 0; i < cuts.length; ++i) {
            uint128 amount = uint128(bound(cuts[i], redeemed, deposit));
            if (amount > redeemed) {
                redeem(id, amount);
                redeemed = amount;
            }
        }
        vm.assertEq(escrow.networkFees(), uint256(redeemed) * bps / 10_000, "fee");
        vm.assertEq(owed(provider), redeemed - escrow.networkFees(), "rest");
        vm.prank(provider);
        escrow.closeByContainer(id);
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - redeemed, "what was not promised is back");
    }

    // ---- closing ----

    function test_theContainerClosesAtOnceAndTheRestGoesBack() public {
        bytes32 id = openLease(0, DEPOSIT);
        redeem(id, 30e18);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotPayee.selector, id, stranger));
        escrow.closeByContainer(id);
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotPayee.selector, id, consumer));
        escrow.closeByContainer(id);
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.LeaseClosed(id, 30e18, 70e18);
        vm.prank(provider);
        escrow.closeByContainer(id);
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - 30e18, "refund");
        vm.assertEq(statusOf(id), 3, "closed");
        vm.assertEq(escrow.lease(id).closedAt, START, "time");
        isOver(id);
    }

    function test_anOperatorClosesForItsPayeeOnly() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.prank(consumer);
        escrow.setOperator(stranger, true);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotPayee.selector, id, stranger));
        escrow.closeByContainer(id);
        vm.prank(provider);
        escrow.setOperator(stranger, true);
        vm.prank(provider);
        escrow.setOperator(stranger, false);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotPayee.selector, id, stranger));
        escrow.closeByContainer(id);
        vm.prank(provider);
        escrow.setOperator(stranger, true);
        vm.prank(stranger);
        escrow.closeByContainer(id);
        vm.assertEq(statusOf(id), 3, "closed");
    }

    function test_theConsumersCloseLeavesAWindowForVouchers() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotConsumer.selector, id, stranger));
        escrow.closeByConsumer(id);
        vm.prank(provider);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotConsumer.selector, id, provider));
        escrow.closeByConsumer(id);
        uint64 until = uint64(START) + WINDOW;
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.LeaseClosing(id, consumer, until);
        vm.prank(consumer);
        escrow.closeByConsumer(id);
        vm.assertEq(statusOf(id), 2, "closing");
        vm.assertEq(escrow.lease(id).closingAt, START, "time");
        vm.prank(consumer);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.NotOpen.selector, id));
        escrow.closeByConsumer(id);

        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.TooEarly.selector, until));
        escrow.finalize(id);
        redeem(id, 40e18);
        vm.warp(until);
        refuse(id, 41e18, abi.encodeWithSelector(LeaseEscrowBase.WindowOver.selector, id));
        vm.prank(stranger);
        escrow.finalize(id);
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - 40e18, "refund");
        isOver(id);
    }

    function test_theSessionKeyMayCloseForTheConsumer() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.prank(vm.addr(SESSION));
        escrow.closeByConsumer(id);
        vm.assertEq(statusOf(id), 2, "closing");
    }

    function test_theContainersCloseEndsTheWindow() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.prank(consumer);
        escrow.closeByConsumer(id);
        redeem(id, 1e18);
        vm.prank(provider);
        escrow.closeByContainer(id);
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - 1e18, "refund");
        isOver(id);
    }

    function test_anExpiredLeaseIsFinalizedWithoutTheConsumer() public {
        bytes32 id = openLease(0, DEPOSIT);
        uint64 from = uint64(START) + 1 days + WINDOW;
        vm.warp(from - 1);
        vm.expectRevert(abi.encodeWithSelector(LeaseEscrowBase.TooEarly.selector, from));
        escrow.finalize(id);
        vm.warp(from);
        redeem(id, 3e18);
        vm.prank(stranger);
        escrow.finalize(id);
        vm.assertEq(token.balanceOf(consumer), 1_000_000e18 - 3e18, "refund");
        isOver(id);
    }

    function test_aShorterWindowDoesNotTouchOpenLeases() public {
        bytes32 id = openLease(0, DEPOSIT);
        vm.prank(admin);
        escrow.setTerms(FEE_BPS, DELAY, 1);
        vm.prank(consumer);
        escrow.closeByConsumer(id);
        vm.warp(START + WINDOW - 1);
        vm.expectRevert();
        escrow.finalize(id);
    }

    function test_unknownLeasesAreRefusedEverywhere() public {
        bytes memory unknown = abi.encodeWithSelector(LeaseEscrowBase.UnknownLease.selector, NODE);
        vm.expectRevert(unknown);
        escrow.closeByContainer(NODE);
        vm.expectRevert(unknown);
        escrow.closeByConsumer(NODE);
        vm.expectRevert(unknown);
        escrow.finalize(NODE);
        vm.assertEq(statusOf(NODE), 0, "none");
        vm.assertEq(escrow.lease(NODE).feeBps, 0, "nothing");
    }

    // ---- claiming ----

    function test_serviceFeesAreClaimedAfterTheirDelayOnly() public {
        bytes32 id = openLease(0, DEPOSIT);
        redeem(id, 10e18);
        vm.warp(START + DELAY - 1);
        (uint256 due, uint256 pending) = escrow.claimable(provider);
        vm.assertEq(due, 0, "not yet");
        vm.assertEq(pending, 8e18, "pending");
        vm.expectRevert(LeaseEscrowBase.NothingToClaim.selector);
        escrow.claimServiceFee(provider, 100);
        vm.warp(START + DELAY + DELAY / 64);
        (due, pending) = escrow.claimable(provider);
        vm.assertEq(due, 8e18, "due");
        vm.assertEq(pending, 0, "none pending");
        uint256 before = token.balanceOf(provider);
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.ServiceFeeClaimed(provider, 8e18);
        vm.prank(stranger);
        escrow.claimServiceFee(provider, 100);
        vm.assertEq(token.balanceOf(provider) - before, 8e18, "to the payee, whoever calls");
        vm.expectRevert(LeaseEscrowBase.NothingToClaim.selector);
        escrow.claimServiceFee(provider, 100);
    }

    function test_networkFeesGoToTheirRecipient() public {
        vm.expectRevert(LeaseEscrowBase.NothingToClaim.selector);
        escrow.claimNetworkFee();
        redeem(openLease(0, DEPOSIT), 10e18);
        vm.prank(stranger);
        escrow.claimNetworkFee();
        vm.assertEq(token.balanceOf(feeRecipient), 2e18, "claimed");
        vm.expectRevert(LeaseEscrowBase.NothingToClaim.selector);
        escrow.claimNetworkFee();
    }

    // ---- the governor ----

    function test_pausingStopsWhatComesInAndNothingThatGoesOut() public {
        bytes32 a = openLease(bytes32(uint256(1)), DEPOSIT);
        bytes32 b = openLease(bytes32(uint256(2)), DEPOSIT);
        bytes32 c = openLease(bytes32(uint256(3)), DEPOSIT);
        bytes32 d = openLease(bytes32(uint256(4)), DEPOSIT);
        vm.prank(admin);
        escrow.pause();
        vm.startPrank(consumer);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.open(params(0, DEPOSIT));
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.openWithPermit(params(0, DEPOSIT), 0, 0, 27, 0, 0);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.openBatch(new LeaseEscrow.OpenParams[](1));
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.topUp(a, 1);
        escrow.closeByConsumer(a);
        vm.stopPrank();

        redeem(a, 10e18);
        escrow.redeemBatch(entry(b, 10e18));
        vm.startPrank(provider);
        escrow.closeByContainer(b);
        escrow.settleBatch(entry(c, 10e18));
        vm.stopPrank();
        vm.warp(START + DELAY * 2);
        escrow.finalize(a);
        escrow.finalize(d);
        escrow.claimServiceFee(provider, 100);
        escrow.claimNetworkFee();
        vm.assertEq(token.balanceOf(address(escrow)), 0, "all is out");
        vm.prank(admin);
        escrow.unpause();
        openLease(0, DEPOSIT);
    }

    function test_parametersAreTheGovernorsAndBounded() public {
        bytes32 role = escrow.GOVERNOR_ROLE();
        refusedTo(stranger, role);
        escrow.setTerms(0, 0, 1);
        refusedTo(stranger, role);
        escrow.setFeeRecipient(stranger);
        refusedTo(stranger, role);
        escrow.pause();
        refusedTo(stranger, role);
        escrow.unpause();
        vm.startPrank(admin);
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.setTerms(3001, 0, 1);
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.setTerms(0, 90 days + 1, 1);
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.setTerms(0, 0, 0);
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        escrow.setTerms(0, 0, 30 days + 1);
        vm.expectRevert(LeaseEscrowBase.BadAddress.selector);
        escrow.setFeeRecipient(address(0));
        vm.expectRevert(LeaseEscrowBase.BadAddress.selector);
        escrow.setFeeRecipient(address(escrow));
        escrow.setTerms(3000, 90 days, 30 days);
        escrow.setFeeRecipient(stranger);
        vm.stopPrank();
        vm.assertEq(escrow.feeRecipient(), stranger, "recipient");
        vm.expectRevert(LeaseEscrowBase.OutOfBounds.selector);
        new LeaseEscrow(address(token), address(registry), admin, feeRecipient, 3001, 0, 1);
        vm.expectRevert(LeaseEscrowBase.BadAddress.selector);
        new LeaseEscrow(address(token), address(0), admin, feeRecipient, 0, 0, 1);
        vm.expectRevert(LeaseEscrowBase.BadAddress.selector);
        new LeaseEscrow(address(0), address(registry), admin, feeRecipient, 0, 0, 1);
        vm.expectRevert(LeaseEscrowBase.BadAddress.selector);
        new LeaseEscrow(address(token), address(registry), address(0), feeRecipient, 0, 0, 1);
    }

    // ---- odd tokens ----

    function test_aTokenWithAFeeOnTransferIsRefused() public {
        FeeToken odd = new FeeToken(consumer);
        LeaseEscrow e = new LeaseEscrow(address(odd), address(registry), admin, feeRecipient, FEE_BPS, DELAY, WINDOW);
        vm.startPrank(consumer);
        odd.approve(address(e), type(uint256).max);
        vm.expectRevert(TokenPull.UnsupportedToken.selector);
        e.open(params(0, DEPOSIT));
        vm.stopPrank();
    }

    function test_aRefundThatTheTokenRefusesWaits() public {
        DenyToken odd = new DenyToken(consumer);
        escrow = new LeaseEscrow(address(odd), address(registry), admin, feeRecipient, FEE_BPS, DELAY, WINDOW);
        vm.prank(consumer);
        odd.approve(address(escrow), type(uint256).max);
        bytes32 id = openLease(0, DEPOSIT);
        odd.deny(consumer, true);
        bytes memory packed = entry(id, 1e18);
        vm.expectEmit(address(escrow));
        emit LeaseEscrowBase.RefundDeferred(consumer, DEPOSIT - 1e18);
        vm.prank(provider);
        escrow.settleBatch(packed);
        vm.assertEq(statusOf(id), 3, "closed");
        vm.assertEq(escrow.refundsOwed(consumer), DEPOSIT - 1e18, "owed");
        vm.expectRevert();
        escrow.claimRefund(consumer);
        odd.deny(consumer, false);
        vm.prank(stranger);
        escrow.claimRefund(consumer);
        vm.assertEq(odd.balanceOf(consumer), 1_000_000e18 - 1e18, "refund");
        vm.expectRevert(LeaseEscrowBase.NothingToClaim.selector);
        escrow.claimRefund(consumer);
    }

    function test_aTokenThatCallsBackFindsTheDoorShut() public {
        HookToken odd = new HookToken(consumer);
        escrow = new LeaseEscrow(address(odd), address(registry), admin, feeRecipient, FEE_BPS, DELAY, WINDOW);
        vm.prank(consumer);
        odd.approve(address(escrow), type(uint256).max);
        bytes32 id = openLease(0, DEPOSIT);
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, 1e18, 7);
        odd.hook(address(escrow), abi.encodeCall(escrow.redeem, (id, 1e18, 7, r, vs)));
        vm.prank(provider);
        escrow.closeByContainer(id);
        vm.assertFalse(odd.entered(), "no way in");
        vm.assertEq(
            odd.answer(),
            abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector),
            "because of the guard"
        );
    }

    // ---- helpers ----

    /// A properly signed voucher is refused with this error.
    function refuse(bytes32 id, uint128 amount, bytes memory why) private {
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, amount, 7);
        vm.expectRevert(why);
        escrow.redeem(id, amount, 7, r, vs);
    }

    /// Nothing more happens to a closed lease.
    function isOver(bytes32 id) private {
        bytes memory why = abi.encodeWithSelector(LeaseEscrowBase.NotOpen.selector, id);
        refuse(id, DEPOSIT, why);
        vm.prank(provider);
        vm.expectRevert(why);
        escrow.closeByContainer(id);
        vm.prank(consumer);
        vm.expectRevert(why);
        escrow.closeByConsumer(id);
        vm.expectRevert(why);
        escrow.finalize(id);
        vm.prank(consumer);
        vm.expectRevert(why);
        escrow.topUp(id, 1);
    }

    function refusedTo(address who, bytes32 role) private {
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, who, role));
        vm.prank(who);
    }
}
