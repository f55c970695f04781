// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Base} from "./utils/Base.sol";

contract MusterTokenTest is Base {
    uint256 private constant KEY = 0xa11ce;
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    bytes32 private constant TRANSFER = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 private constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    bytes32 private constant CANCEL = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");

    function test_supplyIsMintedOnceToTheTreasury() public view {
        vm.assertEq(token.totalSupply(), 42_000_000_000 * 10 ** 18, "supply");
        uint256 spent = 4_000_000e18;
        vm.assertEq(token.balanceOf(treasury), token.totalSupply() - spent, "treasury");
        vm.assertEq(token.decimals(), 18, "decimals");
        vm.assertEq(token.name(), "Muster", "name");
        vm.assertEq(token.symbol(), "MUST", "symbol");
    }

    function test_votesCountByTime() public {
        vm.assertEq(token.CLOCK_MODE(), "mode=timestamp", "mode");
        vm.assertEq(uint256(token.clock()), block.timestamp, "clock");
        vm.prank(consumer);
        token.delegate(stranger);
        vm.warp(START + 10);
        vm.prank(consumer);
        token.transfer(provider, 400_000e18);
        vm.warp(START + 20);
        vm.assertEq(token.getPastVotes(stranger, START + 5), 1_000_000e18, "before the transfer");
        vm.assertEq(token.getPastVotes(stranger, START + 15), 600_000e18, "after the transfer");
        vm.assertEq(token.getVotes(provider), 0, "nobody votes without delegating");
    }

    function test_permitApprovesOnceAndForItsDeadlineOnly() public {
        address owner = vm.addr(KEY);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest(owner, 5e18, START));
        vm.warp(START + 1);
        vm.expectRevert();
        token.permit(owner, stranger, 5e18, START, v, r, s);
        vm.warp(START);
        token.permit(owner, stranger, 5e18, START, v, r, s);
        vm.assertEq(token.allowance(owner, stranger), 5e18, "allowance");
        vm.assertEq(token.nonces(owner), 1, "nonce");
        vm.expectRevert();
        token.permit(owner, stranger, 5e18, START, v, r, s);
    }

    function test_authorizedTransferHappensOnceWhoeverBringsIt() public {
        Authorization memory a = authorization(5e18, keccak256("one"));
        uint256 before = token.balanceOf(provider);
        Signature memory g = signed(KEY, TRANSFER, a);
        vm.assertTrue(!token.authorizationState(a.from, a.nonce), "unused");
        vm.prank(stranger);
        bring(a, g);
        vm.assertEq(token.balanceOf(provider), before + 5e18, "to");
        vm.assertEq(token.balanceOf(a.from), 5e18, "from");
        vm.assertTrue(token.authorizationState(a.from, a.nonce), "used");
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, a.from, a.nonce));
        bring(a, g);
        // Nonces have no order, and those of others are their own.
        a.nonce = keccak256("another");
        bring(a, signed(KEY, TRANSFER, a));
        vm.assertEq(token.balanceOf(a.from), 0, "all");
        vm.assertEq(token.nonces(a.from), 0, "permits are not touched");
    }

    function test_authorizationCountsInItsTimeOnly() public {
        Authorization memory a = authorization(5e18, keccak256("window"));
        Signature memory g = signed(KEY, TRANSFER, a);
        bytes memory late =
            abi.encodeWithSelector(ERC3009.ERC3009InvalidAuthorizationTime.selector, a.validAfter, a.validBefore);
        vm.warp(a.validAfter);
        vm.expectRevert(late);
        bring(a, g);
        vm.warp(a.validBefore);
        vm.expectRevert(late);
        bring(a, g);
        vm.warp(a.validBefore - 1);
        bring(a, g);
        vm.assertEq(token.balanceOf(a.from), 5e18, "moved");
    }

    function test_authorizationOfAnotherSignerOrAnotherTransferIsRefused() public {
        Authorization memory a = authorization(5e18, keccak256("signer"));
        refused(a, signed(KEY + 1, TRANSFER, a));
        // Signed for being received is not signed for being sent.
        refused(a, signed(KEY, RECEIVE, a));
        Signature memory g = signed(KEY, TRANSFER, a);
        a.value += 1;
        refused(a, g);
        a.value -= 1;
        a.to = stranger;
        refused(a, g);
        a.to = provider;
        a.nonce = keccak256("other");
        refused(a, g);
        a.nonce = keccak256("signer");
        bring(a, g);
    }

    function test_authorizationNeedsTheTokens() public {
        Authorization memory a = authorization(11e18, keccak256("too much"));
        Signature memory g = signed(KEY, TRANSFER, a);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientBalance.selector, a.from, 10e18, 11e18));
        bring(a, g);
        vm.assertTrue(!token.authorizationState(a.from, a.nonce), "what failed can be brought again");
        fund(a.from, 1e18);
        bring(a, g);
        vm.assertEq(token.balanceOf(a.from), 0, "moved");
    }

    function test_receivingIsForTheReceiverAlone() public {
        Authorization memory a = authorization(5e18, keccak256("receive"));
        Signature memory g = signed(KEY, RECEIVE, a);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, a.to));
        take(a, g);
        vm.prank(a.to);
        take(a, g);
        vm.assertEq(token.balanceOf(a.from), 5e18, "moved");
    }

    function test_canceledAuthorizationMovesNothing() public {
        Authorization memory a = authorization(5e18, keccak256("cancel"));
        Signature memory g = signed(KEY, TRANSFER, a);
        bytes32 inner = keccak256(abi.encode(CANCEL, a.from, a.nonce));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY + 1, typed(inner));
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        token.cancelAuthorization(a.from, a.nonce, v, r, s);
        (v, r, s) = vm.sign(KEY, typed(inner));
        token.cancelAuthorization(a.from, a.nonce, v, r, s);
        vm.assertTrue(token.authorizationState(a.from, a.nonce), "gone");
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, a.from, a.nonce));
        bring(a, g);
    }

    function testFuzz_transfersConserve(uint256 amount) public {
        amount = bound(amount, 0, token.balanceOf(consumer));
        uint256 sum = token.balanceOf(consumer) + token.balanceOf(provider);
        vm.prank(consumer);
        token.transfer(provider, amount);
        vm.assertEq(token.balanceOf(consumer) + token.balanceOf(provider), sum, "sum");
    }

    struct Authorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    struct Signature {
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    /// From the key's account, which is given ten tokens, to the provider; good now.
    function authorization(uint256 value, bytes32 nonce) private returns (Authorization memory) {
        fund(vm.addr(KEY), 10e18);
        return Authorization(vm.addr(KEY), provider, value, START - 1, START + 60, nonce);
    }

    function signed(uint256 key, bytes32 kind, Authorization memory a) private view returns (Signature memory g) {
        bytes32 inner = keccak256(abi.encode(kind, a.from, a.to, a.value, a.validAfter, a.validBefore, a.nonce));
        (g.v, g.r, g.s) = vm.sign(key, typed(inner));
    }

    function bring(Authorization memory a, Signature memory g) private {
        token.transferWithAuthorization(a.from, a.to, a.value, a.validAfter, a.validBefore, a.nonce, g.v, g.r, g.s);
    }

    function take(Authorization memory a, Signature memory g) private {
        token.receiveWithAuthorization(a.from, a.to, a.value, a.validAfter, a.validBefore, a.nonce, g.v, g.r, g.s);
    }

    function refused(Authorization memory a, Signature memory g) private {
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        bring(a, g);
    }

    function typed(bytes32 inner) private view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner));
    }

    function digest(address owner, uint256 value, uint256 deadline) private view returns (bytes32) {
        bytes32 inner = keccak256(abi.encode(PERMIT, owner, stranger, value, token.nonces(owner), deadline));
        return typed(inner);
    }
}
