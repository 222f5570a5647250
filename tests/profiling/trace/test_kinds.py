"""Classes of kernels and operators by their names."""

from __future__ import annotations

import pytest

from nbruntime.profiling.trace.kinds import CLASSES, kernel_class, operator_class

KERNELS = {
    "gemm": [
        "_matmul_ogs_NNT_bf16xbf16xmxfp4_16x256x128x1_swiglu",
        "bmm_E4m3_E4m3E4m3_Fp32_t128x16x128u2_s6_et64x16",
        "_ZN5aiter37fmoe_bf16_blockscaleFp8_g1u1_vs_silu",
        "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, false>",
        "_ZN7cutlass13device_kernelINS_4gemm6kernel13GemmUniversalIN4cute5tupleIJiiiiEEENS1_10collective",
        "_qkv_lora_b_kernel",
        "void mul_mat_vec_q4_K",
        "ck::moe_mxgemm",
        "wvSplitK_hf_sml_",
        "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_tn",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute_kernel__5x_cublas",
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8>(...)",
        "void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128, 16>(...)",
        "void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 2112u, 7168u>(float*)",
        "fused_moe_kernel",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>(...)",
        "Cijk_Alik_Bljk_BBS_BH_Bias_HAS_SAV_UserArgs_MT256x128x64_MI16x16x1_SN",
        "void marlin::Marlin<__half, 256, 1, 8, 8, 4, 8>(int4 const*)",
        "_w8a8_block_fp8_matmul",
    ],
    "attention": [
        "_causal_conv1d_update_kernel",
        "fused_sigmoid_gating_delta_rule_update_kernel",
        "chunk_fwd_kernel_o",
        "chunk_gated_delta_rule_fwd_kernel_h_blockdim64",
        "_chunk_scan_fwd_kernel",
        "solve_tril_16x16_kernel",
        "_decode_grouped_att_m_fwd_kernel",
        "_decode_softmax_reducev_fwd_kernel",
        "get_num_kv_splits_triton",
        "_ZN7cutlass13device_kernelIN5flash11enable_sm90INS1_16FlashAttnFwdSm90INS1_25CollectiveMainloop",
        "void flash_fwd_splitkv_mla_kernel<Flash_fwd_kernel_traits_mla<576, 64, 64>>",
        "fmhaSm100fKernel_QkvBfloat16OBfloat16H128PagedKvCausalP64VarSeqQ128Kv128PersistentContext",
        "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16>",
        "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>>(Flash_fwd_params)",
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<...>>>",
        "void flashinfer::BatchDecodeWithPagedKVCacheKernel<...>(...)",
        "void flashinfer::BatchPrefillWithRaggedKVCacheKernel<...>(...)",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<...>::Params)",
        "_fwd_grouped_kernel_stage1",
        "_fwd_kernel_stage2",
        "void flashinfer::BatchQKApplyRotaryPosIdsCosSinCacheEnhancedKernel<...>",
        "_ZN7ck_tile6kentryINS_13FmhaFwdKernelINS_21BlockFmhaPipelineQRKSVS",
        "create_flashinfer_kv_indices_triton",
        "void paged_attention_ll4mi_QKV_mfma16_kernel<...>",
    ],
    "norm and elementwise": [
        "_fwd_kernel_ep_scatter_1",
        "deepep_permute_triton_kernel",
        "post_reorder_triton_kernel",
        "void deep_gemm::transpose_fp32<512u, 64u, 56u>",
        "void at::native::tensor_kernel_scan_innermost_dim<float, std::plus<float>>",
        "count_and_sort_expert_tokens_kernel",
        "fused_qkvzba_split_reshape_cat_contiguous_kernel",
        "void topkGatingSoftmax<float, 4, 128, 4, 16>",
        "void at::native::sbtopk::gatherTopK<c10::BFloat16, unsigned int, 2, false>",
        "l2norm_fwd_kernel",
        "void moe::dev::finalize::finalizeKernelVecLoad",
        "void flashinfer::norm::FusedAddRMSNormKernel<8u, __nv_bfloat16>(...)",
        "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<...>>(int)",
        "void at::native::unrolled_elementwise_kernel<...MulFunctor...>(int)",
        "void flashinfer::activation::act_and_mul_kernel<__nv_bfloat16, &silu>(...)",
        "triton_poi_fused_add_mul_0",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<...>>(...)",
        "void at::native::(anonymous namespace)::indexSelectSmallIndex<c10::BFloat16, long>(...)",
        "per_token_group_quant_8bit_kernel",
        "moe_align_block_size_kernel",
    ],
    "communication": [
        "void deep_ep::intranode::notify_dispatch<8>",
        "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
        "void userbuffers_fp16_sum_inplace_gpu_mc_rs_oop",
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "ncclKernel_AllGather_RING_LL_Sum_int8_t(ncclWorkElem)",
        "void sglang::cross_device_reduce_1stage<__nv_bfloat16, 8>(...)",
        "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<...>",
        "void deep_ep::internode_ll::dispatch<...>",
        "two_shot_all_reduce_kernel",
        "rcclGenericKernel_1_False",
    ],
    "sampling": [
        "apply_token_bitmask_inplace_kernel",
        "void flashinfer::sampling::OnlineSoftmaxMapKernel",
        "verify_tree_greedy",
        "void flashinfer::sampling::TopKTopPSamplingFromProbKernel<...>",
        "void at::native::(anonymous namespace)::distribution_elementwise_grid_stride_kernel<float, 4>(...)",
        "void at::native::reduce_kernel<512, 1, at::native::ArgMaxOps<float>>(...)",
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float>(...)",
    ],
    "copies": [
        "void at::native::unrolled_elementwise_kernel<at::native::bfloat16tofloat32_copy_kernel_cuda>",
        "transfer_kernel_impl",
        "Memcpy HtoD (Pinned -> Device)",
        "Memcpy DtoD (Device -> Device)",
        "Memset (Device)",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(...)::{lambda()}>",
        "CopyDeviceToHost",
        "__amd_rocclr_copyBuffer",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<long>>(int)",
    ],
    "other": ["my_kernel", "", "Context Sync"],
}

OPERATORS = {
    "gemm": [
        "aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::matmul", "aten::baddbmm", "aten::mv",
        "aten::_addmm_activation", "mkldnn::_linear_pointwise", "aten::mkldnn_convolution", "aten::conv1d",
        "aten::_int_mm", "aten::_scaled_mm", "aten::_weight_int4pack_mm", "sgl_kernel::weight_packed_linear",
        "sgl_kernel::int8_scaled_mm_cpu", "sgl_kernel::fused_experts_cpu", "aten::einsum", "aten::dot",
        "quantized::linear_dynamic",
    ],
    "attention": [
        "aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention_for_cpu",
        "sgl_kernel::decode_attention_cpu", "sgl_kernel::extend_attention_cpu",
        "sgl_kernel::rotary_embedding_cpu",
    ],
    "norm and elementwise": [
        "aten::layer_norm", "aten::native_layer_norm", "sgl_kernel::rmsnorm_cpu", "aten::silu",
        "sgl_kernel::silu_and_mul_cpu", "aten::mul", "aten::mul_", "aten::add", "aten::sub", "aten::div_",
        "aten::pow", "aten::rsqrt", "aten::mean", "aten::sum", "aten::embedding", "aten::index",
        "aten::index_select", "aten::_index_put_impl_", "aten::softmax", "aten::_softmax", "aten::where",
        "aten::neg", "aten::cos", "aten::clamp", "aten::clamp_min", "aten::masked_fill_", "aten::max",
        "aten::cumsum", "aten::arange", "aten::bitwise_and", "aten::eq", "aten::le", "aten::tril",
    ],
    "communication": [
        "c10d::allreduce_", "nccl:all_reduce", "gloo:all_reduce", "record_param_comms",
        "sgl_kernel::shm_allreduce", "c10d::barrier",
    ],
    "sampling": [
        "aten::argmax", "aten::multinomial", "aten::topk", "aten::sort", "aten::exponential_",
        "sgl_kernel::top_k_top_p_sampling",
    ],
    "copies": [
        "aten::copy_", "aten::to", "aten::_to_copy", "aten::clone", "aten::contiguous", "aten::cat",
        "aten::stack", "aten::item", "aten::_local_scalar_dense", "aten::fill_", "aten::zero_", "aten::zeros",
        "aten::full", "aten::pin_memory",
    ],
    "other": ["aten::view", "aten::as_strided", "aten::slice", "aten::transpose", "aten::t", ""],
}  # fmt: skip


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels(kind: str) -> None:
    assert {name: kernel_class(name) for name in KERNELS[kind]} == dict.fromkeys(KERNELS[kind], kind)


@pytest.mark.parametrize("kind", OPERATORS)
def test_operators(kind: str) -> None:
    assert {name: operator_class(name) for name in OPERATORS[kind]} == dict.fromkeys(OPERATORS[kind], kind)


def test_every_class_is_there() -> None:
    assert set(KERNELS) == set(OPERATORS) == set(CLASSES)
