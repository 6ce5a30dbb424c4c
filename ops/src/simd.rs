//! Plain loops compiled again for each [level](crate::Level) and picked at run time, so that LLVM
//! vectorises them and every CPU runs them.

/// What the loops ask of a level.
pub(crate) trait Simd: 'static {
    /// `a b + c`, rounded once where the level has an instruction for it.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// Levels with a fused multiply-add.
pub(crate) struct Fused;

impl Simd for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// What every CPU of the architecture has. Without an instruction for it `mul_add` is a call into
/// the C library.
pub(crate) struct Portable;

impl Simd for Portable {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            a.mul_add(b, c)
        } else {
            a * b + c
        }
    }
}

/// Functions over a [`Simd`] `S`, compiled for each level; the current one's is called.
macro_rules! multiversion {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$simd:ident>($($arg:ident: $ty:ty),* $(,)?) $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn of<$simd: $crate::simd::Simd>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) { of::<$crate::simd::Fused>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) { of::<$crate::simd::Fused>($($arg),*) }
                match $crate::level::current() {
                    // SAFETY: a level is current only where its features were detected.
                    $crate::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            of::<$crate::simd::Portable>($($arg),*)
        }
    )*};
}
pub(crate) use multiversion;
