if(FASTWAN_SANITIZE)
  add_compile_options(-fsanitize=${FASTWAN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${FASTWAN_SANITIZE})
endif()
