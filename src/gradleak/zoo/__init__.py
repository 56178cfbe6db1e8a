"""Small reference models (`gradleak.zoo.models`) and data that needs no download (`gradleak.zoo.data`)."""
