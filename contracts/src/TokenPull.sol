// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title Taking tokens in
/// @notice What the registry and the escrow do alike when they pull tokens from a caller.
library TokenPull {
    using SafeERC20 for IERC20;

    /// @notice The token delivered less than was asked for (a fee on transfer); such tokens are not supported.
    error UnsupportedToken();

    /// @notice Pulls exactly `amount` from `from`, or reverts.
    function pull(IERC20 token, address from, uint256 amount) internal {
        uint256 before = token.balanceOf(address(this));
        // slither-disable-next-line arbitrary-send-erc20 -- every caller passes msg.sender
        token.safeTransferFrom(from, address(this), amount);
        if (token.balanceOf(address(this)) < before + amount) revert UnsupportedToken();
    }

    /// @notice Uses an ERC-2612 approval of the caller's. A failure is ignored on purpose: anybody may have
    /// submitted the same permit first, and what counts is whether the allowance is there when tokens are pulled.
    function tryPermit(IERC20 token, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) internal {
        try IERC20Permit(address(token)).permit(msg.sender, address(this), value, deadline, v, r, s) {} catch {}
    }
}
